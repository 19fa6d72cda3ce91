import { once } from "node:events";
import { createInterface } from "node:readline";
import { isKvatlasError } from "@kvatlas/shared/errors";
import { type BlockHasher, createBlockHasher, type KeyExtras } from "@kvatlas/shared/hashing/block-hasher";
import { hashAlgorithms, type KeyScheme } from "@kvatlas/shared/hashing/key-scheme";
import { createLogger } from "@kvatlas/shared/logger";
import { tokenizerEngineChoices } from "@kvatlas/shared/tokenization/engine-choice";
import { type EngineEncoder, loadEngineEncoder } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import { parseLosslessJson } from "@kvatlas/shared/tokenization/lossless-json";
import { obtainModelFiles } from "@kvatlas/shared/tokenization/model-files";
import type { EncodedPrompt } from "@kvatlas/shared/tokenization/prompt-encoder";
import { usageError } from "../args.ts";
import type { Command, CommandContext } from "../command.ts";

export const tokenizeCommand: Command = {
  name: "tokenize",
  summary: "prints prompt text, token ids and block keys of OpenAI request bodies",
  usage: "tokenize --tokenizer DIR|--repository NAME [--engine E] [--scheme S --seed S --block-size N] [--now TIME] < bodies.jsonl",
  description: [
    "Reads one request body a line from stdin and prints one JSON object a line: {rendered, token_ids} of the prompt as vLLM computes them,",
    "with {keys} when --scheme is given. A body with a list of prompts gives {prompts: [...]}, a refused one {error: {line, code, message}}.",
    "A body with messages is a chat, any other a completion.",
  ].join("\n"),
  examples: [
    `echo '{"messages": [{"role": "user", "content": "Hi"}]}' | kvatlas tokenize --tokenizer /models/Qwen3-32B`,
    "kvatlas tokenize --repository Qwen/Qwen3-32B --revision main < bodies.jsonl",
    "kvatlas tokenize --tokenizer /models/Qwen3-32B --scheme sha256_cbor --seed 0 --block-size 16 < bodies.jsonl",
  ],
  options: {
    tokenizer: { type: "string", value: "DIR", description: "Directory with tokenizer.json and tokenizer_config.json." },
    repository: {
      type: "string",
      value: "NAME",
      description: "Instead of --tokenizer: the model's name on the hub; files are kept in huggingface_hub's cache.",
    },
    revision: {
      type: "string",
      value: "REVISION",
      description: "Branch, tag or commit of --repository. Default: main, on ModelScope master.",
    },
    hub: { type: "string", value: "NAME", description: "Where --repository is: huggingface or modelscope. Default: huggingface." },
    engine: { type: "string", value: "NAME", description: `${tokenizerEngineChoices.join(", ")}. Default: auto.` },
    "model-type": { type: "string", value: "NAME", description: "Overrides model_type of config.json." },
    scheme: { type: "string", value: "NAME", description: `Also prints block keys: content, ${hashAlgorithms.join(", ")}.` },
    seed: {
      type: "string",
      value: "SEED",
      description: "Hash seed: the engine's PYTHONHASHSEED. Default: vllm-none-hash, or empty for content.",
    },
    "block-size": { type: "string", value: "TOKENS", description: "Tokens per block, 1 to 4096. Default: 16." },
    model: { type: "string", value: "NAME", description: "Model name in content keys. Default: empty." },
    now: { type: "string", value: "TIME", description: "Clock of templates that print a date, ISO 8601; without a zone it is local time." },
    json: { type: "boolean", description: "Accepted for symmetry: the output is JSON lines anyway." },
  },
  run,
};

async function run({ args, stdin, stdout, signal }: CommandContext): Promise<number> {
  const now = parseNow(args.string("now"));
  const hasher = hasherOf(args);
  const modelType = args.string("model-type");
  const engine = oneOf(args, "engine", tokenizerEngineChoices, "auto");
  const encoder = await loadEngineEncoder({
    directory: await directoryOf(args),
    engine,
    ...(modelType === undefined ? {} : { modelType }),
    ...(now === null ? {} : { now: () => now }),
  });
  const lines = createInterface({ input: stdin, crlfDelay: Number.POSITIVE_INFINITY });
  let number = 0;
  for await (const line of lines) {
    if (signal.aborted) break;
    number += 1;
    if (line.trim() === "") continue;
    const answer = await answerTo(line, number, encoder, hasher);
    if (!stdout.write(`${JSON.stringify(answer)}\n`)) await once(stdout, "drain", { signal }).catch(() => undefined);
  }
  return 0;
}

/** The directory given, or that of the repository's files. */
async function directoryOf(args: CommandContext["args"]): Promise<string> {
  const directory = args.string("tokenizer");
  const repository = args.string("repository");
  const revision = args.string("revision") ?? null;
  const hub = oneOf(args, "hub", hubs, "huggingface");
  if ((directory === undefined) === (repository === undefined)) throw usageError("Give --tokenizer or --repository, one of the two.");
  if (directory !== undefined) {
    if (revision !== null || args.string("hub") !== undefined) throw usageError("--revision and --hub need --repository.");
    return directory;
  }
  const logger = createLogger({ service: "tokenize", level: "warn", fileDescriptor: 2 });
  return obtainModelFiles({ hub, repository: repository ?? "", revision }, { logger, fetch, env: process.env });
}

const hubs = ["huggingface", "modelscope"] as const;

function oneOf<T extends string>(args: CommandContext["args"], name: string, allowed: readonly T[], fallback: T): T {
  const text = args.string(name);
  if (text === undefined) return fallback;
  const found = allowed.find((value) => value === text);
  if (found === undefined) throw usageError(`--${name} must be one of ${allowed.join(", ")}, got "${text}".`);
  return found;
}

interface PromptAnswer {
  readonly rendered: string | null;
  readonly token_ids: readonly number[];
  readonly keys?: readonly string[];
}

type Answer =
  | PromptAnswer
  | { readonly prompts: readonly PromptAnswer[] }
  | { readonly error: { readonly line: number; readonly code: string; readonly message: string } };

async function answerTo(line: string, number: number, encoder: EngineEncoder, hasher: BlockHasher | null): Promise<Answer> {
  try {
    const { kind, list, extras } = formOf(line);
    const prompts = (await encoder.encode({ kind, bodyText: line })).map((prompt) => promptAnswer(prompt, hasher, extras));
    const [first] = prompts;
    return list || first === undefined ? { prompts } : first;
  } catch (error) {
    const code = isKvatlasError(error) ? error.code : "KVATLAS_PROMPT_INVALID";
    return { error: { line: number, code, message: error instanceof Error ? error.message : String(error) } };
  }
}

interface BodyForm {
  readonly kind: "chat" | "completion";
  /** The body asks for several prompts. */
  readonly list: boolean;
  /** What of the body goes into keys beside the tokens. */
  readonly extras: KeyExtras;
}

/** What is no JSON is refused by the encoder, with the position. */
function formOf(line: string): BodyForm {
  const unknown: BodyForm = { kind: "completion", list: false, extras: {} };
  try {
    const body = parseLosslessJson(line);
    if (!(body instanceof Map)) return unknown;
    const salt = body.get("cache_salt");
    const extras: KeyExtras = typeof salt === "string" ? { cacheSalt: salt } : {};
    if (body.has("messages")) return { kind: "chat", list: false, extras };
    const prompt = body.get("prompt");
    return { kind: "completion", list: Array.isArray(prompt) && prompt.some((item) => typeof item !== "number"), extras };
  } catch {
    return unknown;
  }
}

function promptAnswer(prompt: EncodedPrompt, hasher: BlockHasher | null, extras: KeyExtras): PromptAnswer {
  const answer = { rendered: prompt.rendered, token_ids: Array.from(prompt.tokenIds) };
  return hasher === null ? answer : { ...answer, keys: hasher.chain(prompt.tokenIds, extras).keys };
}

function parseNow(text: string | undefined): Date | null {
  if (text === undefined) return null;
  // A date alone would be read as UTC midnight.
  const now = new Date(/^\d{4}-\d{2}-\d{2}$/.test(text) ? `${text}T00:00:00` : text);
  if (Number.isNaN(now.getTime())) throw usageError(`--now must be an ISO 8601 time like 2026-03-05T09:30:00, got "${text}".`);
  return now;
}

function hasherOf(args: CommandContext["args"]): BlockHasher | null {
  const name = args.string("scheme");
  const blockSizeTokens = args.integer("block-size", { min: 1, max: 4096 }) ?? 16;
  if (name === undefined) {
    if (args.string("seed") !== undefined || args.string("block-size") !== undefined)
      throw usageError("--seed and --block-size need --scheme.");
    return null;
  }
  return createBlockHasher({ scheme: schemeOf(name, args.string("seed")), blockSizeTokens, model: args.string("model") ?? "" });
}

function schemeOf(name: string, seed: string | undefined): KeyScheme {
  if (name === "content") return { kind: "content", seed: seed ?? "" };
  const algorithm = hashAlgorithms.find((known) => known === name);
  if (algorithm === undefined) throw usageError(`--scheme must be content or one of ${hashAlgorithms.join(", ")}, got "${name}".`);
  return { kind: "native", algorithm, seed: seed ?? "vllm-none-hash" };
}
