import type { Server } from "node:http";
import { type Clock, systemClock } from "@kvatlas/shared/clock";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Component } from "@kvatlas/shared/lifecycle";
import { listenOn, parseHostPort } from "@kvatlas/shared/listen";
import { type Logger, silentLogger } from "@kvatlas/shared/logger";
import { type Schedule, systemSchedule } from "./engine/engine.ts";
import { bindsEndpoint, offsetEndpoint } from "./events/endpoint.ts";
import { applyFaults } from "./http/control-routes.ts";
import { createOpenAiServer } from "./http/openai-server.ts";
import { type ResolvedOptions, resolveOptions, type SimulatorOptions, simulatorDefaults } from "./options.ts";
import type { PoolDump } from "./rank.ts";
import { Replica } from "./replica.ts";
import type { RequestRecord, RequestTotals } from "./request-log.ts";
import { numericTokenizer, type SimulatorTokenizer } from "./tokenizer.ts";

export type { SimulatorOptions } from "./options.ts";

export interface SimulatorDeps {
  /** @defaultValue systemClock */
  readonly clock?: Clock;
  /** Timers of the engine. @defaultValue Node's */
  readonly schedule?: Schedule;
  /** @defaultValue silent */
  readonly logger?: Logger;
  /** Shared by all replicas; closed by whoever loaded it. Absent: only token-id prompts are served. */
  readonly tokenizer?: SimulatorTokenizer;
}

/** One replica of vLLM without a GPU. Addresses are complete once `start` has resolved. */
export interface Simulator extends Component {
  readonly options: ResolvedOptions;
  /** `host:port` of the HTTP server. */
  readonly address: string;
  /** `http://host:port`. */
  readonly url: string;
  /** Where a subscriber dials rank 0, or what the publisher dials; null when events are off. */
  readonly eventsEndpoint: string | null;
  /** Where a replay client dials rank 0; null without replay. */
  readonly replayEndpoint: string | null;
  /** The same for every rank, in order. */
  readonly publishers: readonly { readonly eventsEndpoint: string; readonly replayEndpoint: string | null }[];
  readonly topic: string;
  /** True content of the block pools, one entry per rank; with host memory, one more per rank behind those. */
  blocks(): readonly PoolDump[];
  /** Requests that have ended, oldest first: true hits. */
  requests(): readonly RequestRecord[];
  totals(): RequestTotals;
  /** Requests running and waiting now, over all ranks. */
  load(): { readonly running: number; readonly waiting: number };
  /** Resolves when every batch so far has been handed to ZMQ. */
  drained(): Promise<void>;
  /**
   * Switches faults, with the fields of `POST /sim/faults`, e.g. `{drop: 3}` or `{restart: {reopenSockets: true}}`.
   *
   * @throws ApiError an unknown field or a wrong value
   */
  applyFaults(faults: Readonly<Record<string, unknown>>): Promise<void>;
  /** The process behind the addresses. */
  readonly replica: Replica;
}

/**
 * @throws KVATLAS_CONFIG_INVALID an option is out of bounds
 */
export function createSimulator(deps: SimulatorDeps, options: SimulatorOptions = {}): Simulator {
  const resolved = resolveOptions(options);
  const clock = deps.clock ?? systemClock;
  const logger = deps.logger ?? silentLogger;
  const schedule = deps.schedule ?? systemSchedule;
  let address: string | null = null;
  let replica: Replica | null = null;
  let server: Server | null = null;
  let starting: Promise<void> | null = null;
  let closing: Promise<void> | null = null;

  function running(): Replica {
    if (replica !== null) return replica;
    throw new KvatlasError("KVATLAS_ENDPOINT_UNAVAILABLE", "the simulator has not been started: await start() first.");
  }

  async function open(): Promise<void> {
    // The topic may name the port, which is known only when the server listens; nobody is told the address before this returns.
    const opening = createOpenAiServer({
      get replica() {
        return running();
      },
      tokenizer: deps.tokenizer ?? numericTokenizer,
      clock,
      logger,
    });
    server = opening;
    address = await listenOn(opening, resolved.listen, "listen");
    const topic = resolved.topic ?? `kv@${address}@${resolved.model}`;
    replica = new Replica({ clock, schedule, logger }, resolved, topic);
    try {
      await replica.start();
    } catch (error) {
      await closeServer(opening);
      await replica.close();
      throw error;
    }
    logger.info({ address, model: resolved.model, engineVersion: resolved.profile.version }, "simulated replica ready");
  }

  const simulator: Simulator = {
    name: "simulator",
    options: resolved,
    get address() {
      running();
      return address ?? "";
    },
    get url() {
      return `http://${simulator.address}`;
    },
    get publishers() {
      return running().ranks.flatMap(({ publisher }) =>
        publisher === null ? [] : [{ eventsEndpoint: publisher.endpoint, replayEndpoint: publisher.replayEndpoint }],
      );
    },
    get eventsEndpoint() {
      return simulator.publishers[0]?.eventsEndpoint ?? null;
    },
    get replayEndpoint() {
      return simulator.publishers[0]?.replayEndpoint ?? null;
    },
    get topic() {
      return running().topic;
    },
    get replica() {
      return running();
    },
    blocks: () => running().dumps(),
    requests: () => running().log.records(),
    totals: () => running().log.totals,
    load: () => {
      const { ranks } = running();
      return {
        running: ranks.reduce((sum, rank) => sum + rank.engine.running, 0),
        waiting: ranks.reduce((sum, rank) => sum + rank.engine.waiting, 0),
      };
    },
    drained: () => running().drained(),
    applyFaults: (faults) => applyFaults(running(), faults),
    start: () => {
      starting ??= open();
      return starting;
    },
    close: () => {
      closing ??= (async () => {
        await starting?.catch(() => {});
        await replica?.close();
        if (server !== null) await closeServer(server);
      })();
      return closing;
    },
  };
  return simulator;
}

export interface SimulatorFleet extends Component {
  readonly simulators: readonly Simulator[];
}

/**
 * Several replicas in one process that share a tokenizer. Given ports count up: HTTP by one, event and replay endpoints that are bound by the
 * data-parallel size; port 0 stays 0, and an endpoint that is dialled is the same for all.
 *
 * @throws KVATLAS_CONFIG_INVALID
 */
export function createSimulatorFleet(deps: SimulatorDeps, options: SimulatorOptions & { readonly replicas: number }): SimulatorFleet {
  const { replicas, ...shared } = options;
  if (!Number.isSafeInteger(replicas) || replicas < 1 || replicas > 1024) {
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `replicas: got ${replicas}, expected a whole number from 1 to 1024.`);
  }
  const simulators = Array.from({ length: replicas }, (_, index) => createSimulator(deps, { ...shared, ...placeOf(shared, index) }));
  let closing: Promise<void> | null = null;
  const close = (): Promise<void> => {
    closing ??= Promise.all(simulators.map((simulator) => simulator.close())).then(() => {});
    return closing;
  };
  return {
    name: "simulator-fleet",
    simulators,
    start: async () => {
      try {
        for (const simulator of simulators) await simulator.start();
      } catch (error) {
        await close();
        throw error;
      }
    },
    close,
  };
}

function placeOf(options: SimulatorOptions, index: number): Pick<SimulatorOptions, "listen" | "kvEventsEndpoint" | "replayEndpoint"> {
  const { host, port } = parseHostPort(options.listen ?? simulatorDefaults.listen);
  const offset = index * (options.dataParallelSize ?? 1);
  const events = options.kvEventsEndpoint === undefined ? simulatorDefaults.kvEventsEndpoint : options.kvEventsEndpoint;
  const replay = options.replayEndpoint === undefined ? simulatorDefaults.replayEndpoint : options.replayEndpoint;
  return {
    listen: `${host.includes(":") ? `[${host}]` : host}:${port === 0 ? 0 : port + index}`,
    kvEventsEndpoint: events === null || !bindsEndpoint(events) ? events : offsetEndpoint(events, offset),
    replayEndpoint: replay === null ? null : offsetEndpoint(replay, offset),
  };
}

async function closeServer(server: Server): Promise<void> {
  if (!server.listening) return;
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
