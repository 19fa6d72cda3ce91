import type { BlockKey } from "@kvatlas/shared/types";
import type { EngineRun, Exchange } from "./engine-run.ts";
import { endOf } from "./timeline.ts";

/** A request as far as the cache is concerned: its prompts, or null when they are not known. */
export interface Traffic {
  readonly exchange: Exchange;
  readonly promptIds: readonly ArrayLike<number>[] | null;
  /** Tokens that the engine took from its cache, over all prompts; null when it did not say. */
  readonly cachedTokens: number | null;
}

/**
 * Whether the engine must have stored a block for this request: it had whole blocks that were not cached. When no batch came of it, one was
 * lost, which at the end of a stream no sequence number tells.
 */
export function mustHaveStored({ promptIds, cachedTokens, exchange }: Traffic, blockSizeTokens: number): boolean {
  if (promptIds === null || cachedTokens === null || (exchange.response?.status ?? 0) !== 200) return false;
  const whole = promptIds.reduce((sum, { length }) => sum + length - (length % blockSizeTokens), 0);
  return whole > cachedTokens;
}

/** Clocks are compared to within a few milliseconds. */
const slackMs = 100;

interface Gap {
  readonly fromMs: number;
  readonly toMs: number;
}

export interface UpperBoundQuery {
  readonly tokenIds: ArrayLike<number>;
  readonly keys: readonly BlockKey[];
  /** Blocks that can hit at all. */
  readonly limit: number;
  readonly blockSizeTokens: number;
  /** Whether the known batches say that the block is there. */
  readonly holds: (key: BlockKey) => Promise<boolean>;
}

/**
 * What the batches that nobody heard can have stored: only blocks of the requests that ran meanwhile, if the recording has all requests. With
 * that a hit behind a gap can often be told all the same: it is at least what was stored after the gap, and at most what follows from here.
 */
export class GapBounds {
  readonly #run: EngineRun;
  readonly #traffic: readonly Traffic[];
  #gaps: Gap[] = [];

  constructor(run: EngineRun, traffic: readonly Traffic[]) {
    this.#run = run;
    this.#traffic = traffic;
  }

  add(fromMs: number, toMs: number): void {
    this.#gaps.push({ fromMs, toMs });
  }

  clear(): void {
    this.#gaps = [];
  }

  /** Most leading blocks that the engine can have; null when the gaps may hide anything. */
  async upperBlocks(query: UpperBoundQuery, openSinceMs: number | null, sentMs: number): Promise<number | null> {
    const { tokenIds, keys, limit, blockSizeTokens, holds } = query;
    // Without the engine's start, somebody else may have used it before the recording began.
    if (!this.#run.hasStart) return null;
    const gaps = openSinceMs === null ? this.#gaps : [...this.#gaps, { fromMs: openSinceMs, toMs: sentMs }];
    let hidden = 0;
    for (const { exchange, promptIds } of this.#traffic) {
      const { atMs } = exchange.request;
      if (atMs >= sentMs || !gaps.some(({ fromMs, toMs }) => atMs < toMs + slackMs && endOf(exchange) + slackMs > fromMs)) continue;
      if (promptIds === null) return null;
      for (const ids of promptIds) {
        const common = commonPrefix(tokenIds, ids);
        // What follows the whole other prompt may be its answer.
        hidden = Math.max(hidden, common === ids.length ? limit : Math.floor(common / blockSizeTokens));
      }
    }
    let blocks = 0;
    for (const key of keys.slice(0, limit)) {
      if (blocks >= hidden && !(await holds(key))) break;
      blocks++;
    }
    return blocks;
  }
}

function commonPrefix(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return i;
  return length;
}
