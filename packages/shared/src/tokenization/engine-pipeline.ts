import { KvatlasError } from "../errors.ts";

/** Any component of tokenizer.json: `type` and its parameters. */
export interface PipelineStep {
  readonly type: string;
  readonly [parameter: string]: unknown;
}

export interface AddedTokenJson {
  readonly id: number;
  readonly content: string;
  readonly single_word?: boolean;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  readonly normalized?: boolean;
  readonly special?: boolean;
}

/** What is read of tokenizer.json; the rest is passed on. */
export interface TokenizerJson {
  readonly truncation?: unknown;
  readonly padding?: unknown;
  readonly added_tokens: readonly AddedTokenJson[];
  readonly normalizer: PipelineStep | null;
  readonly pre_tokenizer: PipelineStep | null;
  readonly post_processor: PipelineStep | null;
  readonly decoder: PipelineStep | null;
  readonly model: PipelineStep;
}

/** What is read of tokenizer_config.json. */
export interface TokenizerConfig {
  readonly tokenizer_class?: string;
  readonly legacy?: boolean | null;
  readonly add_prefix_space?: boolean | null;
  readonly split_special_tokens?: boolean | null;
  readonly truncation_side?: string;
  readonly chat_template?: unknown;
  readonly [key: string]: unknown;
}

/**
 * Model types whose hub `tokenizer_class` is not used: their tokenizer.json runs as published
 * (transformers 5.19.0, models/auto/tokenization_auto.py, MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS).
 */
const PUBLISHED_PIPELINE_MODEL_TYPES: ReadonlySet<string> = new Set(
  `arctic chameleon chatlm deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 deepseek_vl deepseek_vl_hybrid deepseek_vl_v2 deepseek_ocr
  deepseek_ocr2 ernie4_5 ernie4_5_moe fuyu h2ovl_chat hyperclovax hyperclovax_vlm hyperclovax_vision_v2 internlm2 jamba janus llava
  llava_next minicpm3 minicpmv minimax_m2 modernbert modernbert-decoder molmo molmo2 nemotron nvfp4 opencua openvla paddleocr_vl phi3
  phi3_v phimoe qwen2 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen4_exp step3p5 step3_vl vipllava cohere_asr camembertv2-base smolvlm`.split(
    /\s+/,
  ),
);

/** GPT-2's pattern with the engine's whitespace: the ByteLevel step of the library uses JavaScript's `\s`. */
export const gpt2Pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/**
 * The tokenizer.json the engine effectively runs: transformers 5 rebuilds the pipeline from `tokenizer_class`.
 *
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE for what the engine's own tokenizer is needed for.
 */
export function enginePipeline(json: TokenizerJson, config: TokenizerConfig, modelType: string): TokenizerJson {
  if (config.split_special_tokens === true) throw inexact("split_special_tokens in its configuration");
  const dropout = json.model.dropout;
  if (typeof dropout === "number" && dropout > 0) throw inexact("BPE dropout");
  return rebuildForClass(json, config, modelType);
}

/**
 * The same pipeline for @huggingface/tokenizers 0.2.0: two steps are replaced by equivalents that treat Unicode as the engine's Rust
 * code does.
 *
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE when a part of it would not be exact.
 */
export function javascriptPipeline(pipeline: TokenizerJson): TokenizerJson {
  for (const step of preTokenizerSteps(pipeline.pre_tokenizer)) {
    if (step.type === "Metaspace" && step.split !== false) throw inexact("a Metaspace pre-tokenizer that splits");
  }
  if (pipeline.added_tokens.some((token) => token.single_word === true)) throw inexact("an added token with single_word");
  return { ...pipeline, pre_tokenizer: pipeline.pre_tokenizer === null ? null : exactPreTokenizer(pipeline.pre_tokenizer) };
}

function rebuildForClass(json: TokenizerJson, config: TokenizerConfig, modelType: string): TokenizerJson {
  const tokenizerClass = (config.tokenizer_class ?? "").replace(/Fast$/, "");
  if (PUBLISHED_PIPELINE_MODEL_TYPES.has(modelType)) return json;
  if (tokenizerClass === "LlamaTokenizer") {
    // transformers 5.19.0 models/llama/tokenization_llama.py and _get_prepend_scheme
    const prefixSpace = config.add_prefix_space ?? true;
    const scheme = prefixSpace ? (config.legacy === true ? "always" : "first") : "never";
    return {
      ...json,
      normalizer: null,
      pre_tokenizer: { type: "Metaspace", replacement: "\u2581", prepend_scheme: scheme, split: false },
      model: { ...json.model, fuse_unk: true, byte_fallback: true },
    };
  }
  return json;
}

function exactPreTokenizer(step: PipelineStep): PipelineStep {
  switch (step.type) {
    case "Sequence": {
      const steps = Array.isArray(step.pretokenizers) ? (step.pretokenizers as PipelineStep[]) : [];
      return {
        ...step,
        pretokenizers: steps.map(exactPreTokenizer).flatMap((inner) => (inner.type === "Sequence" ? innerSteps(inner) : [inner])),
      };
    }
    case "Digits":
      return split(step.individual_digits === true ? "\\p{N}" : "\\p{N}+");
    case "ByteLevel": {
      if (step.use_regex === false) return step;
      const bytes = { ...step, use_regex: false };
      if (step.add_prefix_space !== true) return { type: "Sequence", pretokenizers: [split(gpt2Pattern), bytes] };
      return step;
    }
    default:
      return step;
  }
}

function innerSteps(step: PipelineStep): PipelineStep[] {
  return Array.isArray(step.pretokenizers) ? (step.pretokenizers as PipelineStep[]) : [];
}

function split(regex: string): PipelineStep {
  return { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
}

function inexact(part: string): KvatlasError {
  return new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", `tokenizer.json has ${part}, which local tokenization does not run exactly`);
}

/** The pre-tokenizer's steps, sequences opened. */
export function preTokenizerSteps(step: PipelineStep | null): PipelineStep[] {
  if (step === null) return [];
  return step.type === "Sequence" ? innerSteps(step).flatMap(preTokenizerSteps) : [step];
}
