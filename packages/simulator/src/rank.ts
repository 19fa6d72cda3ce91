import type { Clock } from "@kvatlas/shared/clock";
import type { Logger } from "@kvatlas/shared/logger";
import { Engine, type EngineObserver, type EventSink, type Schedule } from "./engine/engine.ts";
import type { Sequence } from "./engine/sequence.ts";
import { unsetSeed } from "./engine-profile.ts";
import { offsetEndpoint } from "./events/endpoint.ts";
import { createEventEncoder } from "./events/event-encoder.ts";
import { EventPublisher } from "./events/publisher.ts";
import { createHashChain, type HashChain } from "./hash-chain.ts";
import type { RankView } from "./metrics.ts";
import type { ResolvedOptions } from "./options.ts";

export interface RankDeps {
  readonly clock: Clock;
  readonly schedule: Schedule;
  readonly logger: Logger;
  /** 32 random bytes in hex, for processes without a seed. */
  readonly randomSeed: () => string;
}

/** Content of one rank's block pool at one moment. */
export interface PoolDump {
  readonly rank: number;
  /** Always 0: one full-attention group. */
  readonly group: number;
  /** `cpu`: host memory. */
  readonly medium: "gpu" | "cpu";
  readonly blockSizeTokens: number;
  /** Batches numbered so far; the dump equals the state after the last of them once `unpublished` is 0. */
  readonly nextSequence: number;
  /** Pool events that wait for the next step, and batches that wait for the publisher. */
  readonly unpublished: number;
  /** Block hash, 16 hex digits -> copies. */
  readonly hashes: Readonly<Record<string, number>>;
}

const discard: EventSink = { publish: () => {}, isFull: false, whenRoom: () => Promise.resolve() };

/** One data-parallel rank: an engine core with its own pool, hashes and publisher. */
export class Rank {
  readonly index: number;
  readonly engine: Engine;
  /** null when events are off. */
  readonly publisher: EventPublisher | null;
  /** Requests whose KV is on its way from another engine; engines count them as waiting. */
  transferring = 0;
  readonly #deps: RankDeps;
  readonly #options: ResolvedOptions;
  #chain: HashChain;

  constructor(deps: RankDeps, options: ResolvedOptions, index: number, topic: string, observer: EngineObserver) {
    this.index = index;
    this.#deps = deps;
    this.#options = options;
    this.#chain = this.#newChain();
    const { profile } = options;
    this.publisher =
      options.kvEventsEndpoint === null
        ? null
        : new EventPublisher(
            {
              clock: deps.clock,
              logger: deps.logger,
              encoder: createEventEncoder({ ...profile, bytesHashes: options.bytesHashes }),
            },
            {
              endpoint: offsetEndpoint(options.kvEventsEndpoint, index),
              replayEndpoint: options.replayEndpoint === null ? null : offsetEndpoint(options.replayEndpoint, index),
              topic,
              rank: index,
              bufferSteps: options.bufferSteps,
              highWaterMark: options.highWaterMark,
              maxQueueSize: options.maxQueueSize,
              hasReplayTopic: profile.hasReplayTopic,
              hasReplayHighWaterMark: profile.hasReplayHighWaterMark,
            },
          );
    this.engine = new Engine(
      { clock: deps.clock, schedule: deps.schedule, sink: this.publisher ?? discard, observer },
      {
        scheduler: {
          blockSizeTokens: options.blockSizeTokens,
          numBlocks: options.numBlocks,
          maxNumSeqs: options.maxNumSeqs,
          maxNumBatchedTokens: options.maxNumBatchedTokens,
          unhashedFreedFirst: profile.unhashedFreedFirst,
          reservesWholePrompt: profile.reservesWholePrompt,
          lookaheadTokens: options.lookaheadTokens,
          enablePrefixCaching: options.enablePrefixCaching,
          hostBlocks: options.hostBlocks,
        },
        latency: options,
        publishesBeforeStep: profile.publishesBeforeStep,
      },
    );
  }

  get chain(): HashChain {
    return this.#chain;
  }

  /** What an internal load balancer compares: waiting requests weigh four times (vLLM `DPLBAsyncMPClient`). */
  get load(): number {
    return this.engine.waiting * 4 + this.engine.running;
  }

  /** A new process in the place of the old one: random seeds change, everything else starts over. */
  async restart(reopenSockets: boolean): Promise<void> {
    this.engine.restart();
    this.#chain = this.#newChain();
    await this.publisher?.restart({ reopenSockets });
  }

  dump(): PoolDump {
    const hashes: Record<string, number> = {};
    for (const [hash, copies] of this.engine.scheduler.pool.copies()) hashes[hash.slice(-16)] = copies;
    return {
      rank: this.index,
      group: 0,
      medium: "gpu",
      blockSizeTokens: this.#options.blockSizeTokens,
      nextSequence: this.publisher?.nextSequence ?? 0,
      unpublished: this.engine.scheduler.pendingEvents + (this.publisher?.queued ?? 0),
      hashes,
    };
  }

  /** What is in host memory, in the same form; each block once. */
  hostDump(): PoolDump {
    const hashes: Record<string, number> = {};
    for (const hash of this.engine.scheduler.host.hashes()) hashes[hash.slice(-16)] = 1;
    return { ...this.dump(), medium: "cpu", hashes };
  }

  view(): RankView {
    const { scheduler } = this.engine;
    return {
      running: this.engine.running,
      waiting: this.engine.waiting,
      deferred: this.transferring,
      kvUsage: scheduler.pool.usage,
      preemptions: scheduler.counters.preemptions,
      queriedTokens: scheduler.counters.queriedTokens,
      hitTokens: scheduler.counters.hitTokens,
      hostHitTokens: scheduler.counters.hostHitTokens,
      runningAdapters: adapters(scheduler.running),
      waitingAdapters: adapters(scheduler.waiting),
    };
  }

  #newChain(): HashChain {
    const { profile, hashAlgorithm, seed } = this.#options;
    // Events of host memory may need whole digests where those of the GPU do not.
    const bytesHashes = this.#options.bytesHashes || this.#options.hostBlocks > 0;
    return createHashChain({ ...this.#options, bytesHashes }, seed ?? unsetSeed(profile, hashAlgorithm, this.#deps.randomSeed));
  }
}

function adapters(sequences: readonly Sequence[]): string[] {
  return [...new Set(sequences.flatMap(({ spec }) => (spec.lora === null ? [] : [spec.lora.name])))];
}
