import { randomBytes } from "node:crypto";
import type { Clock } from "@kvatlas/shared/clock";
import { mediaOfAdapter } from "@kvatlas/shared/hashing/adapter-media";
import type { KeyExtras, MediaItem } from "@kvatlas/shared/hashing/block-hasher";
import type { Logger } from "@kvatlas/shared/logger";
import type { Answer } from "./engine/answer.ts";
import type { EngineObserver, Schedule, SequenceListener } from "./engine/engine.ts";
import type { Sequence } from "./engine/sequence.ts";
import { createReplicaMetrics, type ReplicaMetrics } from "./metrics.ts";
import type { LoraAdapter, ResolvedOptions } from "./options.ts";
import { type PoolDump, Rank } from "./rank.ts";
import { RequestLog } from "./request-log.ts";
import { KeptBlocks } from "./transfer/kept-blocks.ts";
import { pullBlocks } from "./transfer/pull-blocks.ts";
import type { RemoteBlocks } from "./transfer/transfer-params.ts";

export interface ReplicaDeps {
  readonly clock: Clock;
  readonly schedule: Schedule;
  readonly logger: Logger;
}

/** One prompt with its answer, ready for an engine. */
export interface Submission {
  readonly id: string;
  readonly promptTokenIds: Uint32Array;
  /** Images that some of them stand for. @defaultValue none */
  readonly media?: readonly MediaItem[] | undefined;
  readonly answer: Answer;
  readonly lora: LoraAdapter | null;
  readonly cacheSalt: string | null;
  readonly sessionId: string | null;
  readonly skipsCacheLookup: boolean;
  readonly reportsReusedBlocks: boolean;
  /** Prompt tokens that another engine has computed. @defaultValue 0 */
  readonly receivedTokens?: number;
  /** Its blocks are kept for another engine. @defaultValue false */
  readonly holdsBlocks?: boolean;
}

/** vLLM's levels: 0 pauses the engine, 1 moves the weights to host memory, 2 discards them. */
export type SleepLevel = 0 | 1 | 2;

/** `vllm:engine_sleep_state`: at level 0 the engine is not awake, and neither of the others is set. */
const sleepStates = { awake: "awake", 0: null, 1: "weights_offloaded", 2: "discard_all" } as const;

/** Switches of the HTTP side; those of the event side are `PublisherFaults`. */
export interface ReplicaFaults {
  /** /health answers 503. */
  unhealthy: boolean;
  /** Requests for completions to be answered with this status, and how many of them. */
  failNext: { status: number; count: number } | null;
  /** Live batches that are lost after each restart: a subscriber that is slow to join. */
  slowJoinBatches: number;
}

/** One simulated process: the ranks behind an HTTP port and what they share. No sockets of its own but the publishers'. */
export class Replica {
  readonly options: ResolvedOptions;
  readonly topic: string;
  readonly ranks: readonly Rank[];
  readonly log = new RequestLog();
  readonly faults: ReplicaFaults = { unhealthy: false, failNext: null, slowJoinBatches: 0 };
  /** What this engine keeps for others. */
  readonly kept: KeptBlocks;
  readonly #clock: Clock;
  readonly #schedule: Schedule;
  #metrics: ReplicaMetrics;
  #observers: EngineObserver[];
  #sleepLevel: SleepLevel | null = null;
  #isHung = false;
  #startedAtSeconds: number;
  #restarts = 0;
  #nextRank = 0;

  constructor(deps: ReplicaDeps, options: ResolvedOptions, topic: string) {
    this.options = options;
    this.topic = topic;
    this.#clock = deps.clock;
    this.#schedule = deps.schedule;
    this.kept = new KeptBlocks(deps.clock, options.kvTransferTtlMs);
    this.#startedAtSeconds = deps.clock.now() / 1000;
    this.#metrics = createReplicaMetrics(options);
    this.#observers = [];
    const rankDeps = { ...deps, randomSeed: () => randomBytes(32).toString("hex") };
    this.ranks = Array.from(
      { length: options.dataParallelSize },
      (_, index) => new Rank(rankDeps, options, index, topic, this.#observe(index)),
    );
    this.#renewMetrics();
  }

  get isSleeping(): boolean {
    return this.#sleepLevel !== null;
  }

  get isHung(): boolean {
    return this.#isHung;
  }

  get restarts(): number {
    return this.#restarts;
  }

  async start(): Promise<void> {
    for (const rank of this.ranks) await rank.publisher?.start();
    this.#applySlowJoin();
  }

  async close(): Promise<void> {
    this.kept.close();
    for (const rank of this.ranks) rank.engine.close();
    await Promise.all(this.ranks.map((rank) => rank.publisher?.close()));
  }

  /** True content of the caches: one entry per rank for the GPU, then one per rank for host memory where there is any. */
  dumps(): readonly PoolDump[] {
    const gpu = this.ranks.map((rank) => rank.dump());
    return this.options.hostBlocks === 0 ? gpu : [...gpu, ...this.ranks.map((rank) => rank.hostDump())];
  }

  /** Waits until every batch so far has been handed to ZMQ. */
  async drained(): Promise<void> {
    await Promise.all(this.ranks.map((rank) => rank.publisher?.whenDrained()));
  }

  adapter(name: string): LoraAdapter | null {
    return this.options.loraAdapters.find((adapter) => adapter.name === name) ?? null;
  }

  /** The rank a request goes to: the one asked for, else the least loaded, ties in turn. */
  pickRank(asked: number | null): Rank {
    const wanted = asked === null ? undefined : this.ranks[asked];
    if (wanted !== undefined) return wanted;
    const least = Math.min(...this.ranks.map((rank) => rank.load));
    for (let i = 0; i < this.ranks.length; i += 1) {
      const rank = this.ranks[(this.#nextRank + i) % this.ranks.length];
      if (rank === undefined || rank.load > least) continue;
      this.#nextRank = (rank.index + 1) % this.ranks.length;
      return rank;
    }
    throw new RangeError("a replica has at least one rank");
  }

  submit(rank: Rank, submission: Submission, listener: SequenceListener): Sequence {
    const { promptTokenIds, answer, lora, cacheSalt, receivedTokens = 0, holdsBlocks = false } = submission;
    const media = this.#mediaOf(submission);
    const tokenIds = new Uint32Array(promptTokenIds.length + answer.tokenIds.length);
    tokenIds.set(promptTokenIds);
    tokenIds.set(answer.tokenIds, promptTokenIds.length);
    return rank.engine.submit(
      {
        id: submission.id,
        tokenIds,
        promptTokens: promptTokenIds.length,
        finishReason: answer.finishReason,
        hashes: this.options.enablePrefixCaching ? rank.chain.hashes(tokenIds, extrasOf({ ...submission, media })) : [],
        lora: lora === null ? null : { id: this.options.loraAdapters.indexOf(lora) + 1, name: lora.name },
        cacheSalt,
        media: media ?? [],
        sessionId: submission.sessionId,
        skipsCacheLookup: submission.skipsCacheLookup,
        reportsReusedBlocks: submission.reportsReusedBlocks && this.options.profile.reportsReusedBlocks,
        receivedTokens,
        holdsBlocks,
      },
      listener,
    );
  }

  /**
   * Gets a prompt's KV from the engine that has computed it, in the time that takes: so many tokens of the prompt need not be computed. Blocks that this
   * rank holds already are not transferred again. Null when the other engine does not have it, or the signal says to stop.
   */
  async pull(
    rank: Rank,
    from: RemoteBlocks,
    prompt: Pick<Submission, "promptTokenIds" | "media" | "lora" | "cacheSalt">,
    signal: AbortSignal,
  ): Promise<number | null> {
    const { blockSizeTokens, enablePrefixCaching, kvTransferMs, kvTransferTokensPerSecond, speed } = this.options;
    rank.transferring += 1;
    try {
      const tokens = await pullBlocks(from, signal);
      if (tokens === null) return null;
      const hashes = enablePrefixCaching
        ? rank.chain.hashes(prompt.promptTokenIds, extrasOf({ ...prompt, media: this.#mediaOf(prompt) }))
        : [];
      const held = rank.engine.scheduler.pool.leadingHits(hashes, hashes.length).length * blockSizeTokens;
      const ms = kvTransferMs + (Math.max(0, tokens - held) / kvTransferTokensPerSecond) * 1_000;
      await this.#delay(ms / speed, signal);
      return signal.aborted ? null : tokens;
    } finally {
      rank.transferring -= 1;
    }
  }

  /** Images as the engine names them. */
  #mediaOf({ lora, media }: Pick<Submission, "lora" | "media">): Submission["media"] {
    const { towerConnectorLora, profile } = this.options;
    return media === undefined || lora === null || !towerConnectorLora || !profile.namesMediaByAdapter
      ? media
      : mediaOfAdapter(media, lora.name);
  }

  #delay(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#schedule(resolve, ms);
      signal.addEventListener("abort", () => {
        cancel();
        resolve();
      });
    });
  }

  resetPrefixCache(): boolean {
    return this.ranks.map((rank) => rank.engine.reset()).every(Boolean);
  }

  /** Computes nothing until `wakeUp`. Level 0 pauses what runs; levels 1 and 2 end it and clear the cache. */
  sleep(level: SleepLevel): void {
    this.#sleepLevel = level;
    for (const rank of this.ranks) {
      rank.engine.hold("sleep", true);
      if (level === 0) continue;
      rank.engine.loseAll("sleep");
      rank.engine.dropStep();
      rank.engine.reset();
    }
  }

  wakeUp(): void {
    this.#sleepLevel = null;
    for (const rank of this.ranks) rank.engine.hold("sleep", false);
  }

  /** A hung engine accepts requests, answers /health and computes nothing. */
  hang(isHung: boolean): void {
    this.#isHung = isHung;
    for (const rank of this.ranks) rank.engine.hold("hang", isHung);
  }

  /** A new process at the same addresses: sequence 0, empty pool, counters at zero, later start time. */
  async restart(reopenSockets: boolean): Promise<void> {
    this.#restarts += 1;
    this.#sleepLevel = null;
    this.#isHung = false;
    // At least a millisecond later, so that the start time always tells.
    this.#startedAtSeconds = Math.max(this.#clock.now() / 1000, this.#startedAtSeconds + 0.001);
    this.#renewMetrics();
    this.kept.restart();
    for (const rank of this.ranks) await rank.restart(reopenSockets);
    this.#applySlowJoin();
  }

  metricsText(): Promise<string> {
    return this.#metrics.text({
      ranks: this.ranks.map((rank) => rank.view()),
      sleepState: sleepStates[this.#sleepLevel ?? "awake"],
      processStartTime: this.#startedAtSeconds,
      now: this.#clock.now() / 1000,
    });
  }

  get metricsContentType(): string {
    return this.#metrics.contentType;
  }

  #applySlowJoin(): void {
    for (const rank of this.ranks) if (rank.publisher !== null) rank.publisher.faults.dropNext = this.faults.slowJoinBatches;
  }

  #renewMetrics(): void {
    this.#metrics = createReplicaMetrics(this.options);
    this.#observers = Array.from({ length: this.options.dataParallelSize }, (_, index) => this.#metrics.observer(index));
  }

  /** Engines outlive metrics (a restart renews these), so they get a forwarder. */
  #observe(index: number): EngineObserver {
    const first = new WeakMap<Sequence, number>();
    return {
      onAdmitted: (...args) => this.#observers[index]?.onAdmitted(...args),
      onFirstToken: (sequence, sinceArrivalMs) => {
        first.set(sequence, sinceArrivalMs);
        this.#observers[index]?.onFirstToken(sequence, sinceArrivalMs);
      },
      onNextToken: (...args) => this.#observers[index]?.onNextToken(...args),
      onFinished: (sequence, reason, durationMs) => {
        this.#observers[index]?.onFinished(sequence, reason, durationMs);
        const model = sequence.spec.lora?.name ?? this.options.model;
        this.log.add(index, model, sequence, reason, { timeToFirstTokenMs: first.get(sequence) ?? null, durationMs });
      },
      onStep: (...args) => this.#observers[index]?.onStep(...args),
    };
  }
}

function extrasOf({ lora, cacheSalt, media }: Pick<Submission, "lora" | "cacheSalt" | "media">): KeyExtras {
  return {
    ...(lora === null ? {} : { lora }),
    ...(cacheSalt === null ? {} : { cacheSalt }),
    ...(media === undefined ? {} : { media }),
  };
}
