import type { Clock } from "@kvatlas/shared/clock";
import { isKvatlasError } from "@kvatlas/shared/errors";
import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointId } from "@kvatlas/shared/types";
import { type EventTopic, parseTopic } from "../discovery/topic.ts";
import type { IngesterMetrics } from "../metrics.ts";
import { PacedWarning } from "../paced-warning.ts";
import { type EngineFrame, peekRank } from "./frame.ts";
import { FrameQueue } from "./frame-queue.ts";

export interface BindRouterDeps {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
  /** Frames of an endpoint have come: which one is it, and whose? Null: it is not to be looked after. */
  readonly claim: (topic: EventTopic, rank: number) => EndpointId | null;
}

/** Topics are written by publishers: whoever floods us with names gets no more queues than this. */
const maxTopics = 4_096;

/**
 * Bind mode: many publishers dial one SUB socket, and each frame finds its endpoint's queue by the topic `kv@<ip[:port]>@<model>` and the
 * data-parallel rank in the batch (ranks of one replica share a topic and count separately).
 */
export class BindRouter {
  readonly #deps: BindRouterDeps;
  readonly #maxQueuedBytes: number;
  readonly #topics = new Map<string, EventTopic | null>();
  readonly #queues = new Map<EndpointId, FrameQueue>();
  readonly #warning: PacedWarning;

  constructor(deps: BindRouterDeps, options: { readonly maxQueuedBytes: number }) {
    this.#deps = deps;
    const hint = "start engines with a topic kv@<pod ip>:<http port>@<model> in --kv-events-config";
    this.#warning = new PacedWarning(deps, `events came in that belong to no endpoint; ${hint}`);
    this.#maxQueuedBytes = options.maxQueuedBytes;
  }

  /** The queue of an endpoint, there before its first frame and after its owner has changed. */
  queueOf(endpoint: EndpointId): FrameQueue {
    let queue = this.#queues.get(endpoint);
    if (queue === undefined) {
      queue = new FrameQueue(this.#maxQueuedBytes);
      this.#queues.set(endpoint, queue);
    }
    return queue;
  }

  forget(endpoint: EndpointId): void {
    this.#queues.delete(endpoint);
  }

  route(frame: EngineFrame & { readonly topic: string }): void {
    const topic = this.#topicOf(frame.topic);
    if (topic === null) {
      this.#passOver("topic", frame.topic);
      return;
    }
    const rank = rankOf(frame.payload);
    const endpoint = rank === null ? null : this.#deps.claim(topic, rank);
    if (endpoint === null) {
      this.#passOver(rank === null ? "rank" : "endpoint", frame.topic);
      return;
    }
    this.queueOf(endpoint).push({ seq: frame.seq, payload: frame.payload, receivedAt: this.#deps.clock.monotonic() });
  }

  #topicOf(text: string): EventTopic | null {
    const known = this.#topics.get(text);
    if (known !== undefined) return known;
    const topic = parseTopic(text);
    if (this.#topics.size >= maxTopics) this.#topics.clear();
    this.#topics.set(text, topic);
    return topic;
  }

  #passOver(what: "topic" | "rank" | "endpoint", topic: string): void {
    this.#deps.metrics.frames.inc({ outcome: `unusable ${what}` });
    this.#warning.add(1, { what, topic: topic.slice(0, 256) });
  }
}

/** Null when the payload is no batch. */
function rankOf(payload: Uint8Array): number | null {
  const rank = peekRank(payload);
  if (rank !== null) return rank;
  try {
    return decodeEventBatch(payload).rank;
  } catch (error) {
    if (isKvatlasError(error)) return null;
    throw error;
  }
}
