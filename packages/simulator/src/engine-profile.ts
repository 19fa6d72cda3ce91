import { KvatlasError } from "@kvatlas/shared/errors";
import type { WireForm } from "@kvatlas/shared/events/events";
import { type HashAlgorithm, hashAlgorithms } from "@kvatlas/shared/hashing/key-scheme";

/** Releases that the simulator knows, oldest and newest; patch numbers matter only where 0.11.0 and 0.11.1 differ. */
export const oldestEngineVersion = "0.10.0";
export const newestEngineVersion = "0.33.0";

/** What one release of vLLM does differently from another, as far as its events, hashes and HTTP answers show it. */
export interface EngineProfile {
  /** As `/version` reports it. */
  readonly version: string;
  readonly wireForm: WireForm;
  /** Items of a BlockStored array, tag included; only for `array`. */
  readonly storedArrayLength: number;
  /** Items of a BlockRemoved array, tag included; only for `array`. */
  readonly removedArrayLength: number;
  /** Replay replies carry the topic before the sequence number (0.26+). */
  readonly hasReplayTopic: boolean;
  /** The ROUTER's send high-water mark holds a whole replay (0.33+); before, libzmq's default of 1,000. */
  readonly hasReplayHighWaterMark: boolean;
  /** How LoRA, media and salt enter the hash. */
  readonly extrasForm: "plain" | "offset" | "tagged";
  readonly defaultAlgorithm: HashAlgorithm;
  /** Events of host memory carry whole digests as bytes, whatever those of the GPU carry (up to 0.23). */
  readonly hostHashesAreBytes: boolean;
  /** Hash-only stores say 0 for the block size (0.20+). */
  readonly hostBlockSizeIsZero: boolean;
  /** `session_id` in stores (0.30+). */
  readonly hasSessionId: boolean;
  /** Unhashed blocks go to the front of the free queue (0.24+). */
  readonly unhashedFreedFirst: boolean;
  /** A prompt is admitted only when all of it fits, not just its first chunk (0.19+). */
  readonly reservesWholePrompt: boolean;
  /** Events leave at the end of schedule(), before the model step (up to 0.11.0). */
  readonly publishesBeforeStep: boolean;
  /** GET /kv_event_sources (0.31+). */
  readonly hasEventSources: boolean;
  /** POST /reset_prefix_cache answers `{success}` (0.26+); before, an empty body. */
  readonly resetReportsSuccess: boolean;
  /** `prompt_tokens_details` is left out of a usage without hits (up to 0.23). */
  readonly omitsZeroCachedTokens: boolean;
  /** `return_token_ids` is understood (0.10.2+). */
  readonly returnsTokenIds: boolean;
  /** `kv_cache_report_mode: "full"` is understood (0.26+). */
  readonly reportsReusedBlocks: boolean;
  /** Knows `--enable-tower-connector-lora`: the adapter's name is part of the names of images. */
  readonly namesMediaByAdapter: boolean;
  /** `remote_request_id` is part of what a prefill hands over (0.13+); before, both requests had to have the same id. */
  readonly handsOverRequestId: boolean;
  /** So is `remote_num_tokens` (0.21+). */
  readonly handsOverTokenCount: boolean;
  /** A prefill that ends by `stop` is handed over as well, not only one that ends by `length` (0.24+). */
  readonly handsOverStopped: boolean;
}

/**
 * The coherent set of behaviours of a release, e.g. `0.32`, `v0.11.2` or `0.10.1.1`.
 * Source: vLLM 0.10.0 to 0.33.0, `distributed/kv_events.py`, `v1/core/{block_pool,kv_cache_utils}.py`, `v1/core/sched/scheduler.py`.
 *
 * @throws KVATLAS_CONFIG_INVALID not a version, or out of range
 */
export function engineProfile(version: string): EngineProfile {
  const at = parseVersion(version);
  const since = (minor: number, patch = 0): boolean => at.minor > minor || (at.minor === minor && at.patch >= patch);
  const [storedArrayLength, removedArrayLength] = arrayLengths(since);
  return {
    version: at.text,
    wireForm: since(33) ? "map16" : since(24) ? "map" : "array",
    storedArrayLength,
    removedArrayLength,
    hasReplayTopic: since(26),
    hasReplayHighWaterMark: since(33),
    extrasForm: since(31) ? "tagged" : since(19) ? "offset" : "plain",
    defaultAlgorithm: since(10, 2) ? "sha256" : "sha256_cbor_64bit",
    hostHashesAreBytes: !since(24),
    hostBlockSizeIsZero: since(20),
    hasSessionId: since(30),
    unhashedFreedFirst: since(24),
    reservesWholePrompt: since(19),
    publishesBeforeStep: !since(11, 1),
    hasEventSources: since(31),
    resetReportsSuccess: since(26),
    omitsZeroCachedTokens: !since(24),
    returnsTokenIds: since(10, 2),
    reportsReusedBlocks: since(26),
    namesMediaByAdapter: since(14),
    handsOverRequestId: since(13),
    handsOverTokenCount: since(21),
    handsOverStopped: since(24),
  };
}

/**
 * Seed of a process that has no PYTHONHASHSEED: fixed since 0.29 for the sha256 family, else new for each process.
 * 0.10.2 to 0.28 take 32 random bytes as they are; hashing a random string instead cannot be told apart from outside.
 */
export function unsetSeed(profile: EngineProfile, algorithm: HashAlgorithm, randomSeed: () => string): string {
  const isFixed = Number(profile.version.split(".")[1]) >= 29 && (algorithm === "sha256" || algorithm === "sha256_cbor");
  return isFixed ? "vllm-none-hash" : randomSeed();
}

/** @throws KVATLAS_CONFIG_INVALID */
export function parseAlgorithm(text: string): HashAlgorithm {
  const found = hashAlgorithms.find((name) => name === text);
  if (found === undefined) {
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `hash algorithm "${text}" is unknown: expected one of ${hashAlgorithms.join(", ")}.`);
  }
  return found;
}

function parseVersion(version: string): { readonly text: string; readonly minor: number; readonly patch: number } {
  const match = /^v?0\.(\d{1,2})(?:\.(\d{1,2}))?(?:\.\d{1,2})?$/.exec(version);
  const minor = Number(match?.[1]);
  if (match === null || minor < 10 || minor > 33) {
    throw new KvatlasError(
      "KVATLAS_CONFIG_INVALID",
      `engine version "${version}" cannot be simulated: expected a vLLM release from ${oldestEngineVersion} to ${newestEngineVersion}, such as 0.32.`,
    );
  }
  const bare = version.replace(/^v/, "");
  // A bare minor names its last patch where patches differ: 0.11 is 0.11.2, 0.10 is 0.10.2.
  const lastPatch = minor === 10 || minor === 11 ? 2 : 0;
  const patch = match[2] === undefined ? lastPatch : Number(match[2]);
  return { text: match[2] === undefined ? `${bare}.${lastPatch}` : bare, minor, patch };
}

function arrayLengths(since: (minor: number, patch?: number) => boolean): readonly [number, number] {
  if (since(22)) return [12, 4];
  if (since(20)) return [10, 4];
  if (since(17)) return [9, 3];
  if (since(14)) return [8, 3];
  return since(10, 2) ? [7, 3] : [6, 2];
}
