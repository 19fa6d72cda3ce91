import { KvatlasError } from "@kvatlas/shared/errors";
import type { WireForm } from "@kvatlas/shared/events/events";
import type { HashAlgorithm } from "@kvatlas/shared/hashing/key-scheme";
import { type EngineProfile, engineProfile } from "./engine-profile.ts";

/** A LoRA adapter, as `--lora-modules name=path` gives it to vLLM. */
export interface LoraAdapter {
  readonly name: string;
  /** Shown as `root` by /v1/models; part of the hash since 0.31. */
  readonly path: string;
}

export interface SimulatorOptions {
  /** vLLM release whose wire forms, hashes and rules apply, 0.10 to 0.33. @defaultValue "0.32" */
  readonly engineVersion?: string;
  /** Served model name. @defaultValue "simulated" */
  readonly model?: string;
  /** `host:port` of the HTTP server; port 0 picks a free one. @defaultValue "127.0.0.1:0" */
  readonly listen?: string;
  /** ZMQ endpoint for events; bound or dialled as vLLM decides (`*`, `::`, ipc and inproc bind). null: no events. @defaultValue "tcp://*:0" */
  readonly kvEventsEndpoint?: string | null;
  /** ZMQ endpoint for replay, always bound. null: no replay. @defaultValue "tcp://*:0" */
  readonly replayEndpoint?: string | null;
  /** Topic of the event messages; null: `kv@<address>@<model>`. @defaultValue "" */
  readonly topic?: string | null;
  /** Tokens per block. @defaultValue 16 */
  readonly blockSizeTokens?: number;
  /** Physical blocks per rank, the null block included. @defaultValue 16384 */
  readonly numBlocks?: number;
  /** Longest prompt and answer together, tokens. @defaultValue 131072, or what the blocks hold if that is less */
  readonly maxModelLen?: number;
  /** Requests that run at the same time per rank. @defaultValue 256 */
  readonly maxNumSeqs?: number;
  /** Tokens computed in one step. @defaultValue 8192 */
  readonly maxNumBatchedTokens?: number;
  /** @defaultValue the release's own default */
  readonly hashAlgorithm?: HashAlgorithm;
  /** PYTHONHASHSEED; null: not set, with the release's consequences. @defaultValue null */
  readonly seed?: string | null;
  /** Whole digests on the wire (`VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0`). @defaultValue false */
  readonly bytesHashes?: boolean;
  /** Tokens after a block that are part of its hash (0.33 with EAGLE or MTP). @defaultValue 0 */
  readonly lookaheadTokens?: number;
  /** Blocks of host memory per rank that computed blocks are offloaded to; 0: none. @defaultValue 0 */
  readonly hostBlocks?: number;
  /** Overrides the release. */
  readonly wireForm?: WireForm;
  /** Replay answers carry the topic; overrides the release. */
  readonly replayTopic?: boolean;
  /** Freed blocks without a hash are reused first; overrides the release. */
  readonly unhashedFreedFirst?: boolean;
  /** Events leave before the step that computes them; overrides the release. */
  readonly publishesBeforeStep?: boolean;
  /** @defaultValue true */
  readonly enablePrefixCaching?: boolean;
  /** Engines behind the one HTTP port. @defaultValue 1 */
  readonly dataParallelSize?: number;
  /** Batches kept for replay. @defaultValue 10000 */
  readonly bufferSteps?: number;
  /** Send high-water mark of the event socket, messages. @defaultValue 100000 */
  readonly highWaterMark?: number;
  /** Batches that may wait for the publisher before the engine stops. @defaultValue 100000 */
  readonly maxQueueSize?: number;
  /** @defaultValue none */
  readonly loraAdapters?: readonly LoraAdapter[];
  /** Prompt tokens computed per second and rank. @defaultValue 20000 */
  readonly prefillTokensPerSecond?: number;
  /** A decode step whatever the batch, milliseconds. @defaultValue 8 */
  readonly decodeMs?: number;
  /** Added per decoding sequence, milliseconds. @defaultValue 0.1 */
  readonly decodeMsPerSequence?: number;
  /** Added per 1,000 tokens of context of the scheduled sequences, milliseconds. @defaultValue 0 */
  readonly contextMsPerThousandTokens?: number;
  /** Tokens copied per second from host memory. @defaultValue 400000 */
  readonly hostLoadTokensPerSecond?: number;
  /** Everything runs this many times faster. @defaultValue 1 */
  readonly speed?: number;
  /** Answers that end by themselves are half to one and a half times this long. @defaultValue 48 */
  readonly typicalAnswerTokens?: number;
  /** Tokens per chunk of a stream (`--stream-interval`). @defaultValue 1 */
  readonly streamInterval?: number;
  /** Largest request body, bytes. @defaultValue 33554432 (32 MiB) */
  readonly maxBodyBytes?: number;
  /** `usage.prompt_tokens_details` (`--enable-prompt-tokens-details`). @defaultValue true */
  readonly promptTokensDetails?: boolean;
  /** KV blocks go from engine to engine over vLLM's NIXL connector (`--kv-transfer-config`, `kv_role: kv_both`). @defaultValue false */
  readonly kvTransfer?: boolean;
  /** Setting up one transfer, milliseconds. @defaultValue 2 */
  readonly kvTransferMs?: number;
  /** Tokens transferred per second. @defaultValue 200000 */
  readonly kvTransferTokensPerSecond?: number;
  /** How long blocks are kept for an engine that does not come for them, milliseconds (`VLLM_NIXL_ABORT_REQUEST_TIMEOUT`). @defaultValue 480000 */
  readonly kvTransferTtlMs?: number;
  /** What happens when blocks cannot be had (`kv_load_failure_policy`): the request fails with 500, or is computed. @defaultValue "recompute" */
  readonly kvLoadFailure?: "recompute" | "fail";
  /** Images are computed anew for each adapter, and named apart: 0.14 and later (`--enable-tower-connector-lora`). @defaultValue false */
  readonly towerConnectorLora?: boolean;
  /** Render endpoints on 0.30 and later (`--enable-scale-out`); always on before. @defaultValue false */
  readonly enableScaleOut?: boolean;
}

/** Defaults, each with its unit. */
export const simulatorDefaults = {
  engineVersion: "0.32",
  model: "simulated",
  listen: "127.0.0.1:0",
  kvEventsEndpoint: "tcp://*:0",
  replayEndpoint: "tcp://*:0",
  topic: "",
  blockSizeTokens: 16, // tokens
  numBlocks: 16_384, // blocks: 256k tokens at 16 tokens a block
  maxModelLen: 131_072, // tokens
  maxNumSeqs: 256, // requests
  maxNumBatchedTokens: 8192, // tokens a step
  bufferSteps: 10_000, // batches, as in vLLM
  highWaterMark: 100_000, // messages, as in vLLM
  maxQueueSize: 100_000, // batches, as in vLLM
  prefillTokensPerSecond: 20_000, // tokens/s
  decodeMs: 8, // ms a step
  decodeMsPerSequence: 0.1, // ms
  contextMsPerThousandTokens: 0, // ms
  hostLoadTokensPerSecond: 400_000, // tokens/s: about 50 GB/s at 128 kB a token
  speed: 1,
  typicalAnswerTokens: 48, // tokens
  streamInterval: 1, // tokens a chunk
  maxBodyBytes: 32 * 1024 * 1024, // bytes
  kvTransferMs: 2, // ms
  kvTransferTokensPerSecond: 200_000, // tokens/s: about 25 GB/s at 128 kB a token
  kvTransferTtlMs: 480_000, // ms, as in vLLM
} as const;

/** Options with every default filled in and the release resolved. */
export interface ResolvedOptions
  extends Required<Omit<SimulatorOptions, "engineVersion" | "wireForm" | "replayTopic" | "unhashedFreedFirst" | "publishesBeforeStep">> {
  readonly profile: EngineProfile;
}

/** @throws KVATLAS_CONFIG_INVALID naming the option */
export function resolveOptions(options: SimulatorOptions): ResolvedOptions {
  const release = engineProfile(options.engineVersion ?? simulatorDefaults.engineVersion);
  const profile: EngineProfile = {
    ...release,
    wireForm: options.wireForm ?? release.wireForm,
    hasReplayTopic: options.replayTopic ?? release.hasReplayTopic,
    unhashedFreedFirst: options.unhashedFreedFirst ?? release.unhashedFreedFirst,
    publishesBeforeStep: options.publishesBeforeStep ?? release.publishesBeforeStep,
  };
  const blockSizeTokens = options.blockSizeTokens ?? simulatorDefaults.blockSizeTokens;
  const numBlocks = options.numBlocks ?? simulatorDefaults.numBlocks;
  const capacityTokens = (numBlocks - 1) * blockSizeTokens;
  const resolved: ResolvedOptions = {
    profile,
    model: options.model ?? simulatorDefaults.model,
    listen: options.listen ?? simulatorDefaults.listen,
    kvEventsEndpoint: options.kvEventsEndpoint === undefined ? simulatorDefaults.kvEventsEndpoint : options.kvEventsEndpoint,
    replayEndpoint: options.replayEndpoint === undefined ? simulatorDefaults.replayEndpoint : options.replayEndpoint,
    topic: options.topic === undefined ? simulatorDefaults.topic : options.topic,
    blockSizeTokens,
    numBlocks,
    maxModelLen: options.maxModelLen ?? Math.min(simulatorDefaults.maxModelLen, capacityTokens),
    maxNumSeqs: options.maxNumSeqs ?? simulatorDefaults.maxNumSeqs,
    maxNumBatchedTokens: options.maxNumBatchedTokens ?? simulatorDefaults.maxNumBatchedTokens,
    hashAlgorithm: options.hashAlgorithm ?? release.defaultAlgorithm,
    seed: options.seed ?? null,
    bytesHashes: options.bytesHashes ?? false,
    lookaheadTokens: options.lookaheadTokens ?? 0,
    enablePrefixCaching: options.enablePrefixCaching ?? true,
    dataParallelSize: options.dataParallelSize ?? 1,
    bufferSteps: options.bufferSteps ?? simulatorDefaults.bufferSteps,
    highWaterMark: options.highWaterMark ?? simulatorDefaults.highWaterMark,
    maxQueueSize: options.maxQueueSize ?? simulatorDefaults.maxQueueSize,
    loraAdapters: options.loraAdapters ?? [],
    prefillTokensPerSecond: options.prefillTokensPerSecond ?? simulatorDefaults.prefillTokensPerSecond,
    decodeMs: options.decodeMs ?? simulatorDefaults.decodeMs,
    decodeMsPerSequence: options.decodeMsPerSequence ?? simulatorDefaults.decodeMsPerSequence,
    contextMsPerThousandTokens: options.contextMsPerThousandTokens ?? simulatorDefaults.contextMsPerThousandTokens,
    hostBlocks: options.hostBlocks ?? 0,
    hostLoadTokensPerSecond: options.hostLoadTokensPerSecond ?? simulatorDefaults.hostLoadTokensPerSecond,
    speed: options.speed ?? simulatorDefaults.speed,
    typicalAnswerTokens: options.typicalAnswerTokens ?? simulatorDefaults.typicalAnswerTokens,
    streamInterval: options.streamInterval ?? simulatorDefaults.streamInterval,
    maxBodyBytes: options.maxBodyBytes ?? simulatorDefaults.maxBodyBytes,
    promptTokensDetails: options.promptTokensDetails ?? true,
    kvTransfer: options.kvTransfer ?? false,
    kvTransferMs: options.kvTransferMs ?? simulatorDefaults.kvTransferMs,
    kvTransferTokensPerSecond: options.kvTransferTokensPerSecond ?? simulatorDefaults.kvTransferTokensPerSecond,
    kvTransferTtlMs: options.kvTransferTtlMs ?? simulatorDefaults.kvTransferTtlMs,
    kvLoadFailure: options.kvLoadFailure ?? "recompute",
    towerConnectorLora: options.towerConnectorLora ?? false,
    enableScaleOut: options.enableScaleOut ?? false,
  };
  checkBounds(resolved, capacityTokens);
  return Object.freeze(resolved);
}

function checkBounds(options: ResolvedOptions, capacityTokens: number): void {
  const whole: readonly [keyof ResolvedOptions, number, number][] = [
    ["blockSizeTokens", 1, 8192],
    ["numBlocks", 2, 4_194_304],
    ["maxModelLen", 2, capacityTokens],
    ["maxNumSeqs", 1, 65_536],
    ["maxNumBatchedTokens", 1, 4_194_304],
    ["lookaheadTokens", 0, 64],
    ["hostBlocks", 0, 16_777_216],
    ["dataParallelSize", 1, 64],
    ["bufferSteps", 1, 1_000_000],
    ["highWaterMark", 0, 10_000_000],
    ["maxQueueSize", 1, 10_000_000],
    ["typicalAnswerTokens", 1, 1_000_000],
    ["streamInterval", 1, 1_000_000],
    ["maxBodyBytes", 1, 1_073_741_824],
  ];
  for (const [name, min, max] of whole) checkNumber(options, name, min, max, true);
  checkNumber(options, "prefillTokensPerSecond", 1, 1e12, false);
  checkNumber(options, "decodeMs", 0, 60_000, false);
  checkNumber(options, "decodeMsPerSequence", 0, 60_000, false);
  checkNumber(options, "contextMsPerThousandTokens", 0, 60_000, false);
  checkNumber(options, "hostLoadTokensPerSecond", 1, 1e12, false);
  checkNumber(options, "kvTransferMs", 0, 60_000, false);
  checkNumber(options, "kvTransferTokensPerSecond", 1, 1e12, false);
  checkNumber(options, "kvTransferTtlMs", 0, 86_400_000, false);
  checkNumber(options, "speed", 0.001, 1e9, false);
  if (options.model === "") throw new KvatlasError("KVATLAS_CONFIG_INVALID", "simulator option model: got an empty name.");
}

function checkNumber(options: ResolvedOptions, name: keyof ResolvedOptions, min: number, max: number, whole: boolean): void {
  const value = options[name];
  const isRight =
    typeof value === "number" && (whole ? Number.isSafeInteger(value) : Number.isFinite(value)) && value >= min && value <= max;
  if (isRight) return;
  const hint = name === "maxModelLen" ? " (numBlocks - 1 blocks must hold one whole request)" : "";
  throw new KvatlasError(
    "KVATLAS_CONFIG_INVALID",
    `simulator option ${name}: got ${String(value)}, expected a ${whole ? "whole number" : "number"} from ${min} to ${max}${hint}.`,
  );
}
