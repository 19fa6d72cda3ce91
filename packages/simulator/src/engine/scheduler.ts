import { type BlockId, BlockPool } from "./block-pool.ts";
import { HostTier } from "./host-tier.ts";
import type { ExtraKey, PoolEvent } from "./pool-events.ts";
import { Sequence, type SequenceSpec } from "./sequence.ts";

export interface SchedulerOptions {
  readonly blockSizeTokens: number;
  /** Physical blocks, the null block included. */
  readonly numBlocks: number;
  /** Requests that run at the same time. */
  readonly maxNumSeqs: number;
  /** Tokens computed in one step over all requests; longer prompts are prefilled in chunks. */
  readonly maxNumBatchedTokens: number;
  readonly unhashedFreedFirst: boolean;
  readonly reservesWholePrompt: boolean;
  /** Tokens after a block that are part of its hash; 0 when lookahead hashing is off. */
  readonly lookaheadTokens: number;
  readonly enablePrefixCaching: boolean;
  /** Blocks of host memory that computed blocks are copied to; 0: no offloading. */
  readonly hostBlocks: number;
}

/** What one model step computes. */
export interface StepPlan {
  readonly work: readonly { readonly sequence: Sequence; readonly tokens: number }[];
  /** Tokens of prompts (or of recomputation after preemption). */
  readonly prefillTokens: number;
  /** Sequences that compute one sampled token. */
  readonly decodeSequences: number;
  /** Tokens already in the cache of all scheduled sequences: what attention reads. */
  readonly contextTokens: number;
  /** Tokens copied from host memory instead of being computed. */
  readonly loadedTokens: number;
}

export interface SchedulerCounters {
  preemptions: number;
  /** Prompt tokens looked up, and found, at first admission. */
  queriedTokens: number;
  hitTokens: number;
  /** Prompt tokens found in host memory beyond those. */
  hostHitTokens: number;
  /** Prompt tokens that came from other engines. */
  receivedTokens: number;
}

interface Hits {
  readonly blocks: readonly BlockId[];
  /** Further blocks that are in host memory. */
  readonly hostBlocks: number;
  /** Tokens behind all those that have come from another engine. */
  readonly receivedTokens: number;
}

const noHits: Hits = { blocks: [], hostBlocks: 0, receivedTokens: 0 };

/**
 * Continuous batching over a block pool, step by step and without time: `schedule` plans a step, `complete` applies its result.
 * Follows vLLM 0.33 `v1/core/sched/scheduler.py` and `v1/core/kv_cache_manager.py`: running requests first, in order; waiting ones while
 * budget, seats and blocks last; the last running request is preempted when blocks run out; blocks are cached when scheduled, so the last
 * sampled token of a request is never computed.
 */
export class Scheduler {
  readonly pool: BlockPool;
  readonly host: HostTier;
  readonly waiting: Sequence[] = [];
  readonly running: Sequence[] = [];
  readonly counters: SchedulerCounters = { preemptions: 0, queriedTokens: 0, hitTokens: 0, hostHitTokens: 0, receivedTokens: 0 };
  readonly #options: SchedulerOptions;
  #events: PoolEvent[] = [];
  #hostEvents: PoolEvent[] = [];

  constructor(options: SchedulerOptions) {
    this.#options = options;
    this.host = new HostTier(options.hostBlocks);
    this.pool = new BlockPool({
      numBlocks: options.numBlocks,
      unhashedFreedFirst: options.unhashedFreedFirst,
      onEvicted: (hash) => this.#events.push({ kind: "removed", hash }),
    });
  }

  add(spec: SequenceSpec): Sequence {
    const sequence = new Sequence(spec);
    this.waiting.push(sequence);
    return sequence;
  }

  /** Ends a sequence early; its blocks are free at once and stay cached. False when it had ended already. */
  abort(sequence: Sequence): boolean {
    if (sequence.status === "finished") return false;
    this.#finish(sequence);
    return true;
  }

  /** Lets go of the blocks of a sequence that has ended and held them; they stay cached. */
  release(sequence: Sequence): void {
    if (sequence.status === "finished") this.#releaseBlocks(sequence);
  }

  get pendingEvents(): number {
    return this.#events.length + this.#hostEvents.length;
  }

  /** Events since the last call, in the order of the pool operations; those of host memory follow. */
  takeEvents(): readonly PoolEvent[] {
    const events = this.#hostEvents.length === 0 ? this.#events : [...this.#events, ...this.#hostEvents];
    this.#events = [];
    this.#hostEvents = [];
    return events;
  }

  /** Clears the cache when no request holds blocks. The event waits for the next step, as in vLLM. */
  reset(): boolean {
    if (!this.pool.reset()) return false;
    this.#events.push({ kind: "cleared" });
    return true;
  }

  /** Plans the next step; null when there is nothing to compute. */
  schedule(): StepPlan | null {
    const plan = {
      work: [] as { sequence: Sequence; tokens: number }[],
      prefillTokens: 0,
      decodeSequences: 0,
      contextTokens: 0,
      loadedTokens: 0,
    };
    let budget = this.#options.maxNumBatchedTokens;
    const take = (sequence: Sequence, tokens: number): void => {
      budget -= tokens;
      if (sequence.generated > 0 && tokens === 1) plan.decodeSequences += 1;
      else plan.prefillTokens += tokens;
      plan.contextTokens += sequence.numComputed;
      plan.loadedTokens += sequence.loadingTokens;
      sequence.loadingTokens = 0;
      plan.work.push({ sequence, tokens });
      sequence.numComputed += tokens;
    };

    let hasPreempted = false;
    for (let i = 0; i < this.running.length && budget > 0; i += 1) {
      const sequence = this.running[i];
      if (sequence === undefined) break;
      const tokens = Math.min(sequence.numTokens - sequence.numComputed, budget);
      while (sequence.status === "running" && !this.#allocate(sequence, tokens, noHits, false)) {
        this.#preemptLast();
        hasPreempted = true;
      }
      if (sequence.status !== "running") break;
      take(sequence, tokens);
    }
    while (!hasPreempted && budget > 0 && this.running.length < this.#options.maxNumSeqs) {
      const sequence = this.waiting[0];
      if (sequence === undefined) break;
      const hits = this.#lookup(sequence);
      const hitTokens = hits.blocks.length * this.#options.blockSizeTokens;
      const hostTokens = hits.hostBlocks * this.#options.blockSizeTokens;
      const tokens = Math.min(sequence.numTokens - hitTokens - hostTokens - hits.receivedTokens, budget);
      if (!this.#allocate(sequence, tokens, hits, this.#options.reservesWholePrompt)) break;
      this.waiting.shift();
      this.running.push(sequence);
      sequence.status = "running";
      if (sequence.cachedTokens < 0) {
        sequence.cachedTokens = hitTokens + hostTokens + hits.receivedTokens;
        this.counters.queriedTokens += sequence.numTokens;
        this.counters.hitTokens += hitTokens;
        this.counters.hostHitTokens += hostTokens;
        this.counters.receivedTokens += hits.receivedTokens;
      }
      take(sequence, tokens);
    }
    return plan.work.length === 0 ? null : plan;
  }

  /** Applies a step: each sequence whose known tokens are all computed gets its next token. Returns those sequences. */
  complete(plan: StepPlan): readonly Sequence[] {
    const advanced: Sequence[] = [];
    for (const { sequence } of plan.work) {
      if (sequence.status !== "running" || sequence.numComputed < sequence.numTokens) continue;
      sequence.numTokens += 1;
      advanced.push(sequence);
      if (sequence.numTokens >= sequence.spec.tokenIds.length) this.#finish(sequence);
    }
    return advanced;
  }

  #lookup(sequence: Sequence): Hits {
    if (!this.#options.enablePrefixCaching || sequence.spec.skipsCacheLookup) return { ...noHits, receivedTokens: received(sequence, 0) };
    // The last token is always computed, to have logits to sample from.
    const limit = Math.min(Math.floor((sequence.numTokens - 1) / this.#options.blockSizeTokens), this.#hashesKnown(sequence));
    const hits = this.pool.leadingHits(sequence.spec.hashes, limit);
    if (hits.length > 0 && sequence.spec.reportsReusedBlocks) this.#emitStored(sequence, 0, hits.length);
    const hostBlocks = this.host.leadingHits(sequence.spec.hashes, hits.length, limit);
    return { blocks: hits, hostBlocks, receivedTokens: received(sequence, (hits.length + hostBlocks) * this.#options.blockSizeTokens) };
  }

  /** Blocks whose hash can be known from the tokens so far. */
  #hashesKnown(sequence: Sequence): number {
    const { blockSizeTokens, lookaheadTokens } = this.#options;
    return Math.min(sequence.spec.hashes.length, Math.max(0, Math.floor((sequence.numTokens - lookaheadTokens) / blockSizeTokens)));
  }

  /** Blocks for `tokens` more tokens, or false with nothing changed. */
  #allocate(sequence: Sequence, tokens: number, hits: Hits, wholeSequence: boolean): boolean {
    const { blockSizeTokens } = this.#options;
    const computed = sequence.numComputed + (hits.blocks.length + hits.hostBlocks) * blockSizeTokens + hits.receivedTokens;
    const held = sequence.blocks.length + hits.blocks.length;
    const reviving = this.pool.countFree(hits.blocks);
    if (wholeSequence && Math.ceil(sequence.numTokens / blockSizeTokens) - held + reviving > this.pool.freeBlocks) return false;
    const fresh = Math.max(0, Math.ceil((computed + tokens) / blockSizeTokens) - held);
    if (fresh + reviving > this.pool.freeBlocks) return false;
    if (hits.blocks.length + hits.hostBlocks + hits.receivedTokens > 0) {
      this.pool.touch(hits.blocks);
      sequence.blocks = [...hits.blocks];
      sequence.numComputed = computed;
      sequence.cachedBlocks = hits.blocks.length;
      sequence.loadingTokens = hits.hostBlocks * blockSizeTokens;
    }
    if (fresh > 0) sequence.blocks.push(...this.pool.allocate(fresh));
    if (this.#options.enablePrefixCaching) this.#cacheFull(sequence, computed + tokens);
    return true;
  }

  #cacheFull(sequence: Sequence, computedTokens: number): void {
    const full = Math.min(
      Math.floor(Math.min(computedTokens, sequence.numTokens) / this.#options.blockSizeTokens),
      this.#hashesKnown(sequence),
    );
    const first = sequence.cachedBlocks;
    if (full <= first) return;
    for (let i = first; i < full; i += 1) this.pool.insert(sequence.blocks[i] ?? 0, sequence.spec.hashes[i] ?? "");
    sequence.cachedBlocks = full;
    this.#emitStored(sequence, first, full);
    this.#copyToHost(sequence, first, full);
  }

  #copyToHost(sequence: Sequence, first: number, end: number): void {
    if (this.#options.hostBlocks === 0) return;
    const { stored, evicted } = this.host.store(sequence.spec.hashes.slice(first, end));
    const { blockSizeTokens } = this.#options;
    if (evicted.length > 0) this.#hostEvents.push({ kind: "host-removed", hashes: evicted });
    if (stored.length > 0) this.#hostEvents.push({ kind: "host-stored", hashes: stored, blockSizeTokens, lora: sequence.spec.lora });
  }

  #emitStored(sequence: Sequence, first: number, end: number): void {
    const { spec } = sequence;
    const { blockSizeTokens, lookaheadTokens } = this.#options;
    const extraKeys: (readonly ExtraKey[] | null)[] = [];
    const lookahead: number[][] = [];
    for (let i = first; i < end; i += 1) {
      const start = i * blockSizeTokens;
      const after = start + blockSizeTokens;
      const images = (spec.media ?? []).filter(({ offset, length }) => offset < after + lookaheadTokens && offset + length > start);
      const keys = [
        ...(spec.lora === null ? [] : [spec.lora.name]),
        ...images.map(({ identifier, offset }) => [identifier, offset - start] as const),
        ...(i === 0 && spec.cacheSalt !== null ? [spec.cacheSalt] : []),
      ];
      extraKeys.push(keys.length === 0 ? null : keys);
      if (lookaheadTokens > 0) lookahead.push([...spec.tokenIds.subarray(after, after + lookaheadTokens)]);
    }
    this.#events.push({
      kind: "stored",
      hashes: spec.hashes.slice(first, end),
      parent: first === 0 ? null : (spec.hashes[first - 1] ?? null),
      tokenIds: spec.tokenIds.subarray(first * blockSizeTokens, end * blockSizeTokens),
      blockSizeTokens,
      lora: spec.lora,
      extraKeys,
      sessionId: spec.sessionId,
      lookahead: lookaheadTokens > 0 ? lookahead : null,
    });
  }

  #preemptLast(): void {
    const victim = this.running.pop();
    if (victim === undefined) return;
    this.#releaseBlocks(victim);
    victim.status = "waiting";
    victim.numComputed = 0;
    victim.preemptions += 1;
    this.counters.preemptions += 1;
    this.waiting.unshift(victim);
  }

  #finish(sequence: Sequence): void {
    const list = sequence.status === "running" ? this.running : this.waiting;
    const at = list.indexOf(sequence);
    if (at >= 0) list.splice(at, 1);
    const endedByItself = sequence.numTokens >= sequence.spec.tokenIds.length;
    sequence.status = "finished";
    if (sequence.spec.holdsBlocks === true && endedByItself) return;
    this.#releaseBlocks(sequence);
  }

  #releaseBlocks(sequence: Sequence): void {
    this.pool.free(sequence.blocks.reverse());
    sequence.blocks = [];
    sequence.cachedBlocks = 0;
  }
}

/** Tokens beyond `held` that came from another engine; the last token of a prompt is always computed. Lost with a preemption. */
function received(sequence: Sequence, held: number): number {
  if (sequence.preemptions > 0) return 0;
  return Math.max(0, Math.min(sequence.spec.receivedTokens ?? 0, sequence.spec.promptTokens - 1) - held);
}
