import type { EndpointLoad } from "@kvatlas/shared/registry/endpoint-registry";
import { Engine, type EngineObserver } from "@kvatlas/simulator/engine/engine";
import type { LatencyOptions } from "@kvatlas/simulator/engine/latency-model";
import type { PoolEvent } from "@kvatlas/simulator/engine/pool-events";
import type { ModelTime } from "./model-time.ts";

export interface ModelReplicaOptions {
  readonly blockSizeTokens: number;
  readonly capacityTokens: number;
  readonly latency: LatencyOptions;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
}

/** What became of one request at a replica, milliseconds since it arrived there. */
export interface Answered {
  onFirstToken(cachedTokens: number): void;
  onFinished(): void;
  onLost(): void;
}

const unobserved: EngineObserver = {
  onAdmitted: () => {},
  onFirstToken: () => {},
  onNextToken: () => {},
  onFinished: () => {},
  onStep: () => {},
};

/** A replica of the model: the simulator's engine core (scheduler, block pool, latency model) on the model's time. */
export class ModelReplica {
  readonly #engine: Engine;
  readonly #time: ModelTime;
  readonly #capacityTokens: number;
  #requests = 0;

  /** @param publish - what the block pool did in one step, when the engine tells it */
  constructor(time: ModelTime, publish: (events: readonly PoolEvent[]) => void, options: ModelReplicaOptions) {
    this.#time = time;
    this.#capacityTokens = options.capacityTokens;
    this.#engine = new Engine(
      {
        clock: time,
        schedule: (run, delayMs) => time.after(delayMs, run),
        sink: { publish, isFull: false, whenRoom: async () => {} },
        observer: unobserved,
      },
      {
        scheduler: {
          blockSizeTokens: options.blockSizeTokens,
          numBlocks: Math.floor(options.capacityTokens / options.blockSizeTokens) + 1,
          maxNumSeqs: options.maxNumSeqs,
          maxNumBatchedTokens: options.maxNumBatchedTokens,
          unhashedFreedFirst: true,
          reservesWholePrompt: true,
          lookaheadTokens: 0,
          enablePrefixCaching: true,
          hostBlocks: 0,
        },
        latency: options.latency,
        publishesBeforeStep: false,
      },
    );
  }

  get waiting(): number {
    return this.#engine.waiting;
  }

  /** As its `/metrics` would tell. */
  get load(): EndpointLoad {
    return {
      waiting: this.#engine.waiting,
      running: this.#engine.running,
      kvUsage: this.#engine.scheduler.pool.usage,
      maxTokens: this.#capacityTokens,
      runningLoras: [],
      waitingLoras: [],
      sleeping: false,
      at: this.#time.now(),
    };
  }

  submit(tokenIds: Uint32Array, promptTokens: number, hashes: readonly string[], answered: Answered): void {
    this.#requests += 1;
    this.#engine.submit(
      {
        id: String(this.#requests),
        tokenIds,
        promptTokens,
        finishReason: "length",
        hashes,
        lora: null,
        cacheSalt: null,
        sessionId: null,
        skipsCacheLookup: false,
        reportsReusedBlocks: false,
      },
      {
        onToken: (sequence) => {
          if (sequence.generated === 1) answered.onFirstToken(Math.max(0, sequence.cachedTokens));
          if (sequence.status === "finished") answered.onFinished();
        },
        onLost: () => answered.onLost(),
      },
    );
  }

  /** As a new process: requests are lost, the cache is empty. */
  restart(): void {
    this.#engine.restart();
  }
}
