import { isKvatlasError } from "@kvatlas/shared/errors";
import { type BlockHasher, createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import type { DetectedScheme } from "@kvatlas/shared/hashing/scheme-detector";
import type { BlockKey } from "@kvatlas/shared/types";
import type { EngineRun, Exchange } from "./engine-run.ts";
import type { StreamRun } from "./engine-stream.ts";
import { GapBounds, mustHaveStored, type Traffic, type UpperBoundQuery } from "./gap-bounds.ts";
import { PredictedCache } from "./predicted-cache.ts";
import { type CheckablePrompt, choicesPerPrompt, type PromptFacts } from "./prompt-facts.ts";
import { type RunTraits, runTraits } from "./run-traits.ts";
import { extrasFormOf, type RunScheme } from "./scheme-check.ts";
import { endOf, isObserved, type PlacedBatch, type PlacedRun, resetsOf } from "./timeline.ts";

/** A request, what is known of its prompt, and the rank that served it. */
export interface RankedRequest {
  readonly exchange: Exchange;
  readonly prompt: PromptFacts;
}

export interface StreamWalkInput {
  readonly run: EngineRun;
  readonly rank: number;
  readonly stream: readonly StreamRun[];
  /** Streams of the other ranks; their clock serves where this one has no live frames. */
  readonly others: readonly StreamRun[];
  /** One per run of the stream. */
  readonly schemes: readonly RunScheme[];
  readonly requests: readonly RankedRequest[];
  /** Every request of the engine, for what may have happened while nobody listened. */
  readonly traffic: readonly Traffic[];
}

/** What the engine should have found in its cache, or why nobody can tell. */
export type Prediction = { readonly tokens: number; readonly limit: number; readonly blockSize: number } | { readonly skip: string };

/** Goes through a stream in time, request by request: `predict` is called in the order in which the requests were sent. */
export class StreamWalk {
  readonly #input: StreamWalkInput;
  readonly #placed: readonly PlacedRun[];
  readonly #resets: readonly number[];
  readonly #hasLiveFrames: boolean;
  readonly #ownTraffic: readonly Traffic[];
  #current = 0;
  #applied = 0;
  #cache: PredictedCache | null = null;
  #hasher: BlockHasher | null = null;
  #traits: RunTraits | null = null;
  readonly #gaps: GapBounds;
  /** What has been stored since the last hole in the sequence numbers; null while there is none, or since the engine has cleared its cache. */
  #sinceGap: PredictedCache | null = null;
  #lastMs = Number.NEGATIVE_INFINITY;
  #nextSeq = 0;

  constructor(input: StreamWalkInput, placed: readonly PlacedRun[]) {
    this.#input = input;
    this.#placed = placed;
    this.#resets = resetsOf(input.run);
    this.#gaps = new GapBounds(input.run, input.traffic);
    const own = new Set(input.requests.map(({ exchange }) => exchange));
    this.#ownTraffic = input.traffic.filter(({ exchange }) => own.has(exchange));
    this.#hasLiveFrames = input.stream.some(({ batches }) => batches.some(({ receivedMs }) => receivedMs !== null));
  }

  async predict(exchange: Exchange, prompt: CheckablePrompt): Promise<Prediction> {
    const sentMs = exchange.request.atMs;
    this.#enterRun(endOf(exchange));
    const next = await this.#applyUntil(sentMs);
    let isOpen = false;
    if (next === null) {
      if (this.#placed[this.#current + 1] !== undefined) return skip("around a restart of the engine");
      const end = { nextSeq: this.#nextSeq, lastMs: this.#lastMs, hasLiveFrames: this.#hasLiveFrames };
      isOpen = !isObserved(this.#input.run, end, sentMs) || this.#hasLostTail(sentMs);
    } else isOpen = next.seq !== this.#nextSeq;
    if (this.#resets.some((resetMs) => resetMs <= sentMs && resetMs > this.#lastMs))
      return skip("after a reset or sleep, before the next batch");
    return this.#match(exchange, prompt, isOpen);
  }

  /** Moves on to the run of the stream in which a request that ended at `endMs` was served. */
  #enterRun(endMs: number): void {
    for (;;) {
      const following = this.#placed[this.#current + 1];
      const [first] = following?.batches ?? [];
      if (first === undefined || first.atMs > endMs) return;
      this.#current++;
      this.#applied = 0;
      this.#cache = null;
      this.#hasher = null;
      this.#traits = null;
      this.#sinceGap = null;
      this.#gaps.clear();
      this.#lastMs = Number.NEGATIVE_INFINITY;
      this.#nextSeq = 0;
    }
  }

  /** Applies what the engine had emitted before; returns the first batch after. */
  async #applyUntil(atMs: number): Promise<PlacedBatch | null> {
    const batches = this.#placed[this.#current]?.batches ?? [];
    for (;;) {
      const batch = batches[this.#applied];
      if (batch === undefined || batch.atMs >= atMs) return batch ?? null;
      this.#applied++;
      if (batch.seq !== this.#nextSeq) {
        this.#gaps.add(this.#lastMs, batch.atMs);
        this.#sinceGap = this.#newCache();
      }
      if (batch.batch.events.some((event) => event.kind === "cleared")) {
        this.#gaps.clear();
        this.#sinceGap = null;
      }
      this.#nextSeq = batch.seq + 1;
      this.#lastMs = batch.atMs;
      this.#cache ??= this.#newCache();
      await this.#cache?.apply(batch);
      await this.#sinceGap?.apply(batch);
    }
  }

  /** Whether a request since the last batch must have brought one that did not come. */
  #hasLostTail(sentMs: number): boolean {
    // Groups of a hybrid model have blocks of several sizes; the largest says when all of them must have stored.
    const blockSize = this.#traitsOfRun().largestBlockTokens;
    if (blockSize < 1) return false;
    return this.#ownTraffic.some((one) => {
      const isBetween = one.exchange.request.atMs > this.#lastMs && endOf(one.exchange) <= sentMs;
      return isBetween && mustHaveStored(one, blockSize);
    });
  }

  #newCache(): PredictedCache | null {
    const found = this.#input.schemes[this.#current]?.found ?? null;
    const { run, rank } = this.#input;
    const endpoint = rank === 0 ? run.engine : `${run.engine}/${rank}`;
    return found === null ? null : new PredictedCache(found, run.meta?.model ?? run.engine, endpoint);
  }

  async #match(exchange: Exchange, prompt: CheckablePrompt, isOpen: boolean): Promise<Prediction> {
    const { run, schemes, stream } = this.#input;
    const scheme = schemes[this.#current];
    const blockSize = scheme?.found?.blockSizeTokens ?? run.meta?.blockSizeTokens ?? 1;
    const limit = Math.max(0, Math.floor((prompt.tokenIds.length - 1) / blockSize));
    const cache = this.#cache;
    // Before the first batch with a store the cache is empty, whatever its keys are.
    if (cache === null || scheme?.found == null) {
      const hasStores = (stream[this.#current]?.batches ?? []).slice(0, this.#applied).some(({ batch }) => batch.events.some(isStore));
      if (isOpen) return skip("gap in the events");
      return hasStores ? skip("key scheme unknown") : { tokens: 0, limit, blockSize };
    }
    const obstacle = this.#obstacle(cache, scheme.found, exchange.request.atMs);
    if (obstacle !== null) return skip(obstacle);
    const keys = this.#keysOf(scheme, prompt);
    if (keys === null) return skip("path of the LoRA adapter not known");
    const isBounded = !isOpen && this.#sinceGap === null;
    const blocks = isBounded
      ? await cache.matchedBlocks(keys.slice(0, limit))
      : await this.#matchAcrossGap(
          cache,
          { tokenIds: prompt.tokenIds, keys, limit, blockSizeTokens: blockSize },
          isOpen,
          exchange.request.atMs,
        );
    if (blocks === null) return skip("gap in the events");
    if (blocks < limit && choicesPerPrompt(exchange) > 1) return skip("several choices of a prompt that was not cached whole");
    return { tokens: blocks * blockSize, limit, blockSize };
  }

  /** The hit behind a gap where both bounds agree; null where they do not. */
  async #matchAcrossGap(
    cache: PredictedCache,
    query: Omit<UpperBoundQuery, "holds">,
    isOpen: boolean,
    sentMs: number,
  ): Promise<number | null> {
    if (cache.groups.length > 1) return null;
    const openSinceMs = isOpen ? this.#lastMs : null;
    const most = await this.#gaps.upperBlocks({ ...query, holds: (key) => cache.holds(key) }, openSinceMs, sentMs);
    const least = isOpen ? 0 : await (this.#sinceGap?.matchedBlocks(query.keys.slice(0, query.limit)) ?? 0);
    return most === least ? least : null;
  }

  /** Why the state, complete as it is, does not tell what the engine would find. */
  #obstacle(cache: PredictedCache, found: DetectedScheme, sentMs: number): string | null {
    const traits = this.#traitsOfRun();
    if (cache.unkeyed > 0) return "stored blocks without a key";
    if (cache.groups.some(({ kind }) => kind === "other")) return "cache groups whose reach the events do not tell";
    if (cache.groups.length > 1 && traits.hasNamelessGroups) return "cache groups whose kind the events do not tell";
    if (found.scheme.kind === "content" && sentMs >= traits.hiddenSaltsFromMs) return "salts that the events do not tell";
    if (sentMs > traits.blurredCopiesFromMs) return "removals after a report of reused blocks, which looks like copies";
    if (found.lookaheadTokens === 0 && traits.hasDrafter) return "drafter that drops the last block";
    return null;
  }

  #traitsOfRun(): RunTraits {
    this.#traits ??= runTraits(this.#input.run, this.#placed[this.#current]);
    return this.#traits;
  }

  #keysOf(scheme: RunScheme, prompt: CheckablePrompt): readonly BlockKey[] | null {
    const { run } = this.#input;
    if (scheme.found === null) return null;
    this.#hasher ??= createBlockHasher({
      scheme: scheme.found.scheme,
      blockSizeTokens: scheme.found.blockSizeTokens,
      lookaheadTokens: scheme.found.lookaheadTokens,
      model: run.meta?.model ?? run.engine,
      extrasForm: extrasFormOf(run, scheme.detector.extrasForm),
    });
    try {
      return this.#hasher.chain(prompt.tokenIds, prompt.extras).keys;
    } catch (error) {
      if (isKvatlasError(error, "KVATLAS_REQUEST_INVALID")) return null;
      throw error;
    }
  }
}

function skip(reason: string): { readonly skip: string } {
  return { skip: reason };
}

function isStore<T extends { readonly kind: string }>(event: T): event is Extract<T, { kind: "stored" }> {
  return event.kind === "stored";
}
