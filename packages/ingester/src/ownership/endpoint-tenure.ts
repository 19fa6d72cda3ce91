import type { Clock } from "@kvatlas/shared/clock";
import type { IngesterConfig } from "@kvatlas/shared/config/schema";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointMeta, EndpointRegistry, Lease } from "@kvatlas/shared/registry/endpoint-registry";
import { endpointIdOf, type ReplicaTarget } from "../discovery/replica-target.ts";
import type { LoadScraper, ReplicaObservation } from "../load/load-scraper.ts";
import type { IngesterMetrics } from "../metrics.ts";
import { PacedWarning } from "../paced-warning.ts";
import type { FindingName } from "../pipeline/endpoint-profile.ts";
import { EndpointSession } from "../pipeline/endpoint-session.ts";
import type { FleetSchemes } from "../pipeline/fleet-schemes.ts";
import type { FrameQueue } from "../subscriber/frame-queue.ts";
import { type SourceLocator, sourceOfRank } from "../subscriber/source-locator.ts";
import { createZmqSubscriber, type EventSubscriber } from "../subscriber/zmq-subscriber.ts";
import type { Tenure } from "./ownership.ts";

export interface EndpointTenureDeps {
  readonly index: BlockIndex;
  readonly registry: EndpointRegistry;
  readonly scraper: LoadScraper;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
  readonly locator: SourceLocator;
  readonly schemes: FleetSchemes;
  /** A replica has told of a further data-parallel rank. */
  readonly onRank: (target: ReplicaTarget) => void;
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
  /** Records or, with null, withdraws something that an operator should know. */
  find(name: FindingName, message: string | null): void;
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
  const session = new EndpointSession({ ...deps, replayAddress: (signal) => deps.locator.replay(target, signal) }, config, owned);
  const abort = new AbortController();
  const malformed = new PacedWarning(
    deps,
    "messages came that are not topic, number and payload: does something else than vLLM publish there?",
  );
  let subscriber = target.events === null ? null : subscribe(target.events);
  let source = target.events;
  let isConnected = false;
  let seeking: Promise<void> | null = null;
  let ended: Promise<void> | null = null;
  let healthyAt = clock.monotonic();

  function observe(observation: ReplicaObservation): void {
    if (observation.healthy) healthyAt = observation.startedAt;
    session.observe(observation);
    if (target.seeksEvents !== true || isConnected || !observation.healthy || abort.signal.aborted) return;
    seeking ??= seek()
      .catch((error: unknown) => logger.error({ err: error, endpoint: target.endpoint }, "asking the replica where it publishes failed"))
      .finally(() => {
        seeking = null;
      });
  }

  /** Dials the replica where it says that it publishes; asked again while there is no connection, because a new process may publish elsewhere. */
  async function seek(): Promise<void> {
    const sources = await deps.locator.sources(target.address, abort.signal);
    const found = sourceOfRank(sources, target.rank)?.endpoint ?? null;
    session.found(found ?? source);
    if (abort.signal.aborted || found === null || found === source) return;
    logger.info({ endpoint: target.endpoint, events: found }, "the replica has told where it publishes");
    const former = subscriber;
    source = found;
    subscriber = subscribe(found);
    await former?.close();
    if (abort.signal.aborted) return;
    await subscriber.start();
    if (target.rank !== 0 || !sources.has(0)) return;
    for (const rank of sources.keys()) {
      if (rank !== 0) deps.onRank({ ...target, rank, endpoint: endpointIdOf(target.address, rank) });
    }
  }

  function subscribe(address: string): EventSubscriber {
    return createZmqSubscriber(
      {
        onFrame: ({ seq, payload }) => queue.push({ seq, payload, receivedAt: clock.monotonic() }),
        onConnected: () => {
          isConnected = true;
          session.connected();
        },
        onDisconnected: () => {
          isConnected = false;
          session.disconnected();
          logger.info({ endpoint: target.endpoint }, "the connection to the publisher is down; it is dialled again");
        },
        onConnection: (event) => metrics.connections.inc({ event }),
        onMalformed: () => {
          metrics.frames.inc({ outcome: "malformed" });
          malformed.add(1, { endpoint: target.endpoint });
        },
      },
      { logger },
      { mode: "connect", address, maxMessageBytes: config.maxQueuedBytes },
    );
  }

  function end(endSession: () => Promise<void>): Promise<void> {
    ended ??= (async () => {
      scraper.remove(target);
      abort.abort();
      await seeking;
      // The session drains what has been received; nothing new comes in meanwhile.
      await subscriber?.close();
      await endSession();
      if (target.events !== null || target.seeksEvents === true) queue.clear();
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
    find: (name, message) => session.find(name, message),
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
