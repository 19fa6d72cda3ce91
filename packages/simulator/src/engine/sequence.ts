import type { MediaItem } from "@kvatlas/shared/hashing/block-hasher";
import type { BlockId } from "./block-pool.ts";

export type FinishReason = "stop" | "length" | "abort";

/** One request as the engine sees it: one prompt, one answer. Its answer is known from the start; it is revealed token by token. */
export interface SequenceSpec {
  readonly id: string;
  /** Prompt, then the whole answer. */
  readonly tokenIds: Uint32Array;
  readonly promptTokens: number;
  readonly finishReason: "stop" | "length";
  /** Hashes of every full block of `tokenIds`, in chain order. */
  readonly hashes: readonly string[];
  readonly lora: { readonly id: number; readonly name: string } | null;
  readonly cacheSalt: string | null;
  /** Images that prompt tokens stand for. @defaultValue none */
  readonly media?: readonly MediaItem[];
  readonly sessionId: string | null;
  /** The prompt is computed whole although blocks of it are cached (prompt_logprobs, echo with logprobs). */
  readonly skipsCacheLookup: boolean;
  /** Reused blocks are reported as stores too (`kv_cache_report_mode: "full"`, 0.26+). */
  readonly reportsReusedBlocks: boolean;
  /**
   * Another engine's KV of the prompt has come in: so many of its tokens need not be computed. @defaultValue 0
   */
  readonly receivedTokens?: number;
  /** When it ends by itself its blocks stay as they are until `release`: another engine will come for them. @defaultValue false */
  readonly holdsBlocks?: boolean;
}

/** State of a sequence inside the scheduler. */
export class Sequence {
  readonly spec: SequenceSpec;
  status: "waiting" | "running" | "finished" = "waiting";
  /** Tokens that exist: the prompt and what has been sampled. */
  numTokens: number;
  /** Tokens whose KV is in blocks of this sequence. */
  numComputed = 0;
  /** Leading blocks whose hash is in the pool. */
  cachedBlocks = 0;
  blocks: BlockId[] = [];
  /** Tokens to be copied from host memory in the next step. */
  loadingTokens = 0;
  /** Prompt tokens found in the cache at first admission, host memory included; -1 before. */
  cachedTokens = -1;
  preemptions = 0;

  constructor(spec: SequenceSpec) {
    this.spec = spec;
    this.numTokens = spec.promptTokens;
  }

  get generated(): number {
    return this.numTokens - this.spec.promptTokens;
  }
}
