import type { Clock } from "@kvatlas/shared/clock";
import type { IngesterConfig } from "@kvatlas/shared/config/schema";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointMeta, EndpointRegistry, Lease } from "@kvatlas/shared/registry/endpoint-registry";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import type { LoadScraper, ReplicaObservation } from "../load/load-scraper.ts";
import type { IngesterMetrics } from "../metrics.ts";
import { EndpointSession } from "../pipeline/endpoint-session.ts";
import type { FrameQueue } from "../subscriber/frame-queue.ts";
import { createZmqSubscriber, type EventSubscriber } from "../subscriber/zmq-subscriber.ts";
import type { Tenure } from "./ownership.ts";

export interface EndpointTenureDeps {
  readonly index: BlockIndex;
  readonly registry: EndpointRegistry;
  readonly scraper: LoadScraper;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
  readonly replayAddress: (target: ReplicaTarget, signal: AbortSignal) => Promise<string | null>;
}

/** What of a tenure outsiders may ask. */
export interface EndpointTenure extends Tenure {
  readonly target: ReplicaTarget;
  readonly isOpen: boolean;
  readonly isCaughtUp: boolean;
  /** Current incarnation; 0 before it is open. */
  readonly incarnation: number;
  /** Monotonic ms of the last health check that was answered well, or event; of the begin before the first. */
  readonly aliveAt: number;
  /** Begins a new incarnation, from what can be replayed. */
  rebuild(): void;
}

/** How long a hand-over may take before the lease is simply let go. */
const closeTimeoutMs = 2_000;

/** Everything that is done for one owned endpoint: its subscription (when the replica is dialled), its session and its looks at the HTTP server. */
export function createEndpointTenure(
  deps: EndpointTenureDeps,
  config: IngesterConfig,
  owned: { readonly target: ReplicaTarget; readonly lease: Lease; readonly stored: EndpointMeta | null; readonly queue: FrameQueue },
): EndpointTenure {
  const { target, queue } = owned;
  const { clock, metrics, logger, scraper } = deps;
  const session = new EndpointSession({ ...deps, replayAddress: (signal) => deps.replayAddress(target, signal) }, config, owned);
  const subscriber = target.events === null ? null : subscribe(target.events);
  let ended: Promise<void> | null = null;
  let healthyAt = clock.monotonic();

  function observe(observation: ReplicaObservation): void {
    if (observation.healthy) healthyAt = observation.startedAt;
    session.observe(observation);
  }

  function subscribe(address: string): EventSubscriber {
    return createZmqSubscriber(
      {
        onFrame: ({ seq, payload }) => queue.push({ seq, payload, receivedAt: clock.monotonic() }),
        onConnected: () => session.connected(),
        onDisconnected: () => {
          session.disconnected();
          logger.info({ endpoint: target.endpoint }, "the connection to the publisher is down; it is dialled again");
        },
        onMalformed: () => metrics.frames.inc({ outcome: "malformed" }),
      },
      { logger },
      { mode: "connect", address, maxMessageBytes: config.maxQueuedBytes },
    );
  }

  function end(endSession: () => Promise<void>): Promise<void> {
    ended ??= (async () => {
      scraper.remove(target);
      // The session drains what has been received; nothing new comes in meanwhile.
      await subscriber?.close();
      await endSession();
      if (subscriber !== null) queue.clear();
      metrics.forgetEndpoint(target.endpoint);
    })();
    return ended;
  }

  return {
    target,
    get isOpen() {
      return session.isOpen;
    },
    get isCaughtUp() {
      return session.isCaughtUp;
    },
    get incarnation() {
      return session.incarnation;
    },
    rebuild: () => session.rebuild(),
    get aliveAt() {
      return Math.max(healthyAt, queue.pushedAt);
    },
    run: async () => {
      scraper.add({ ...target, onObservation: observe });
      await subscriber?.start();
      return session.start();
    },
    heartbeat: () => session.heartbeat(),
    close: () => end(() => session.close(closeTimeoutMs)),
    abandon: () => end(() => session.abandon()),
  };
}
