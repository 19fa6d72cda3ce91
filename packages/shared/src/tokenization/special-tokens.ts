import type { TokenizerConfig } from "./engine-pipeline.ts";

/** Named special tokens a template sees (transformers 5.19 SPECIAL_TOKENS_ATTRIBUTES). */
const NAMES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] as const;

/** Defaults of the tokenizer classes that transformers rebuilds; they hold for keys that the config does not have at all. */
const CLASS_DEFAULTS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  LlamaTokenizer: { unk_token: "<unk>", bos_token: "<s>", eos_token: "</s>" },
  GemmaTokenizer: { unk_token: "<unk>", bos_token: "<bos>", eos_token: "<eos>", pad_token: "<pad>", mask_token: "<mask>" },
  Qwen2Tokenizer: { unk_token: "<|endoftext|>", eos_token: "<|endoftext|>", pad_token: "<|endoftext|>" },
  CohereTokenizer: {
    unk_token: "<UNK>",
    bos_token: "<BOS_TOKEN>",
    eos_token: "<|END_OF_TURN_TOKEN|>",
    pad_token: "<PAD>",
    cls_token: "<CLS>",
    sep_token: "<SEP>",
    mask_token: "<MASK_TOKEN>",
  },
};

/** Special tokens by name, as template variables; names without a token are absent. */
export function specialTokens(config: TokenizerConfig): Map<string, string> {
  const defaults = CLASS_DEFAULTS[(config.tokenizer_class ?? "").replace(/Fast$/, "")] ?? {};
  const tokens = new Map<string, string>();
  for (const name of NAMES) {
    const value = name in config ? tokenText(config[name]) : (defaults[name] ?? null);
    if (value !== null) tokens.set(name, value);
  }
  // Checkpoints may name tokens of their own, such as image_token.
  const extra: unknown = config.extra_special_tokens;
  if (typeof extra === "object" && extra !== null && !Array.isArray(extra)) {
    for (const [name, value] of Object.entries(extra)) {
      const text = tokenText(value);
      if (text !== null) tokens.set(name, text);
    }
  }
  return tokens;
}

/** A token is written as text, or as an object with `content`. */
function tokenText(value: unknown): string | null {
  if (typeof value === "string") return value;
  if (typeof value === "object" && value !== null && "content" in value && typeof value.content === "string") return value.content;
  return null;
}
