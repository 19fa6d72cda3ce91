import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { PortPool } from "../support/free-ports.ts";
import { ManagedProcess } from "../support/managed-process.ts";
import { type LinkState, TcpProxy } from "../support/tcp-proxy.ts";
import type { Arrangement } from "./arrangement.ts";
import { model, type Replica } from "./engine-fleet.ts";

/** Settings of the ingester. */
export type IngesterTiming = Readonly<Partial<Record<"heartbeatMs" | "leaseTtlMs" | "scrapeIntervalMs" | "replayTimeoutMs", number>>>;

/** Shorter than the defaults, so that a schedule takes seconds; not so short that a busy machine alone costs leases. */
export const shortTiming: IngesterTiming = { heartbeatMs: 400, leaseTtlMs: 2_000, scrapeIntervalMs: 200, replayTimeoutMs: 500 };
const stopTimeoutMs = 15_000;

/** One server, reached through a link that can be broken, or the section `redis` that names the others. */
export type RedisAddress =
  | { readonly port: number }
  | { readonly sentinel: { readonly name: string; readonly nodes: readonly string[] } }
  | { readonly cluster: readonly string[] };

/** Everything between one ingester and the others, and who may reach it. */
interface Links {
  /** Null where the ingesters are told of the servers by others. */
  readonly redis: TcpProxy | null;
  /** By replica and rank; none where the engines dial. */
  readonly events: readonly (readonly TcpProxy[])[];
  readonly replay: readonly (readonly TcpProxy[])[];
}

interface Slot {
  readonly links: Links;
  readonly configFile: string;
  readonly logFile: string;
  /** Where engines that dial reach it. */
  readonly bindPort: number;
  process: ManagedProcess | null;
}

export interface IngesterFleetOptions {
  readonly ports: PortPool;
  /** Ingesters that there can be at the same time; none is started. */
  readonly slots: number;
  readonly redis: RedisAddress;
  readonly replicas: readonly Replica[];
  readonly arrangement: Arrangement;
  readonly timing: IngesterTiming;
}

/** `kvatlas ingester` processes, each with links of its own to Redis and to every replica; or, where engines dial, behind one address for each engine process. */
export class IngesterFleet {
  readonly #options: IngesterFleetOptions;
  readonly #slots: Slot[] = [];
  /** By engine process and rank: what a Service is, one of the living for each connection. */
  readonly #services: TcpProxy[][] = [];
  #turn = 0;

  private constructor(options: IngesterFleetOptions) {
    this.#options = options;
  }

  /** @throws whatever a link could not be opened for; then none is left open */
  static async create(folder: string, options: IngesterFleetOptions): Promise<IngesterFleet> {
    const fleet = new IngesterFleet(options);
    try {
      for (let slot = 0; slot < options.slots; slot++) fleet.#slots.push(await createSlot(folder, slot, options));
      if (options.arrangement.publishers === "bind") await fleet.#openServices();
      return fleet;
    } catch (error) {
      await fleet.close();
      throw error;
    }
  }

  get size(): number {
    return this.#options.slots;
  }

  /** Where the publishers of an engine process dial; null where they are dialled. */
  get dial(): ((process: number) => string) | null {
    if (this.#options.arrangement.publishers === "connect") return null;
    return (process) => `tcp://127.0.0.1:${this.#services[process]?.[0]?.port}`;
  }

  /** What the ingesters log, one JSON object per line, by slot. */
  get logFiles(): readonly string[] {
    return this.#slots.map(({ logFile }) => logFile);
  }

  isRunning(slot: number): boolean {
    return this.#slots[slot]?.process?.isAlive ?? false;
  }

  start(index: number): void {
    const slot = this.#slots[index];
    if (slot === undefined || slot.process?.isAlive) return;
    slot.process = new ManagedProcess(["ingester", "--config", slot.configFile], {}, slot.logFile);
  }

  async kill(slot: number): Promise<void> {
    await this.#slots[slot]?.process?.kill();
  }

  /** SIGTERM: it hands its endpoints over. */
  async leave(slot: number): Promise<void> {
    await this.#slots[slot]?.process?.stop(stopTimeoutMs);
  }

  pause(slot: number): void {
    this.#slots[slot]?.process?.pause();
  }

  resume(slot: number): void {
    this.#slots[slot]?.process?.resume();
  }

  setRedisLink(slot: number, state: LinkState): void {
    this.#slots[slot]?.links.redis?.set(state);
  }

  /** The link of one ingester to one replica, or of all of them where `slot` is null; where engines dial, that of the replica's whole process. */
  setLink(kind: "events" | "replay", slot: number | null, replica: number, state: LinkState): void {
    for (const [index, { links }] of this.#slots.entries()) {
      if (slot === null || slot === index) for (const proxy of links[kind][replica] ?? []) proxy.set(state);
    }
    const process = this.#options.replicas[replica]?.process;
    if (kind === "events" && process !== undefined) for (const proxy of this.#services[process] ?? []) proxy.set(state);
  }

  /** Every link open, nobody stopped. */
  heal(): void {
    for (const { process } of this.#slots) process?.resume();
    for (const proxy of this.#proxies()) if (proxy.state.kind !== "open") proxy.set({ kind: "open" });
  }

  async close(): Promise<void> {
    await Promise.all(this.#slots.map(({ process }) => process?.kill()));
    await Promise.all(this.#proxies().map((proxy) => proxy.close()));
  }

  #proxies(): readonly TcpProxy[] {
    const ofSlots = this.#slots.flatMap(({ links: { redis, events, replay } }) => [redis ?? [], ...events, ...replay].flat());
    return [...ofSlots, ...this.#services.flat()];
  }

  async #openServices(): Promise<void> {
    const { replicas, arrangement, ports } = this.#options;
    const ranks = Number(arrangement.ranks);
    const processes = new Set(replicas.map(({ process }) => process));
    for (const _ of processes) {
      const base = await ports.take(ranks);
      const service: TcpProxy[] = [];
      this.#services.push(service);
      for (let rank = 0; rank < ranks; rank++) service.push(await TcpProxy.start(() => this.#nextLiving(), base + rank));
    }
  }

  /** In turn, one that is stopped included: nobody knows yet. */
  #nextLiving(): number | null {
    const living = this.#slots.filter(({ process }) => process?.isAlive);
    const chosen = living[this.#turn++ % Math.max(1, living.length)];
    return chosen?.bindPort ?? null;
  }
}

/** Proxies at ports in a row, as ranks are found. */
async function linksTo(port: number, { ports, arrangement }: IngesterFleetOptions): Promise<readonly TcpProxy[]> {
  const ranks = Number(arrangement.ranks);
  const base = await ports.take(ranks);
  const links: TcpProxy[] = [];
  for (let rank = 0; rank < ranks; rank++) links.push(await TcpProxy.start(port + rank, base + rank));
  return links;
}

async function createSlot(folder: string, slot: number, options: IngesterFleetOptions): Promise<Slot> {
  const { redis, replicas, arrangement, timing } = options;
  const isDialled = arrangement.publishers === "connect";
  const ranks = Number(arrangement.ranks);
  const linked = isDialled ? replicas : [];
  const links: Links = {
    redis: "port" in redis ? await TcpProxy.start(redis.port) : null,
    events: await inTurn(linked, (replica) => linksTo(replica.eventsPort, options)),
    replay: await inTurn(linked, (replica) => linksTo(replica.replayPort, options)),
  };
  const bindPort = await options.ports.take(1);
  const dial = (proxies: readonly (readonly TcpProxy[])[], replica: number): string => `tcp://127.0.0.1:${proxies[replica]?.[0]?.port}`;
  const config = {
    redis: links.redis === null ? redis : { url: `redis://127.0.0.1:${links.redis.port}` },
    pools: [
      {
        name: "p",
        model,
        endpoints: {
          static: linked.map(({ address }, i) => ({
            address,
            events: dial(links.events, i),
            replay: dial(links.replay, i),
            dataParallelSize: ranks,
          })),
        },
        prefixCache: { onGap: arrangement.onGap, hashAlgo: arrangement.keys === "content" ? "content" : "auto" },
      },
    ],
    ingester: {
      ...timing,
      admin: "127.0.0.1:0",
      bind: isDialled ? null : `tcp://127.0.0.1:${bindPort}`,
      ...(arrangement.queues === "64KiB" ? { maxQueuedBytes: 65_536 } : {}),
    },
    housekeeping: housekeepingOf(arrangement),
    log: { level: "debug" },
  };
  const configFile = join(folder, `ingester-${slot}.yaml`);
  // JSON is YAML.
  await writeFile(configFile, JSON.stringify(config));
  return { links, configFile, logFile: join(folder, `ingester-${slot}.log`), bindPort, process: null };
}

async function inTurn<T, R>(list: readonly T[], work: (item: T) => Promise<R>): Promise<readonly R[]> {
  const results: R[] = [];
  for (const item of list) results.push(await work(item));
  return results;
}

function housekeepingOf({ housekeeping }: Arrangement): object {
  if (housekeeping === "off") return {};
  return {
    purgeIntervalMs: 250,
    auditIntervalMs: 1_000,
    auditSampleBlocks: 500,
    ...(housekeeping === "truth" ? { truthPath: "/sim/blocks" } : {}),
  };
}
