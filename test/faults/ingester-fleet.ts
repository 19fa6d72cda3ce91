import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ManagedProcess } from "../support/managed-process.ts";
import { type LinkState, TcpProxy } from "../support/tcp-proxy.ts";
import { model, type Replica } from "./engine-fleet.ts";

/** Settings of the ingester. */
export type IngesterTiming = Readonly<Partial<Record<"heartbeatMs" | "leaseTtlMs" | "scrapeIntervalMs" | "replayTimeoutMs", number>>>;

/** Shorter than the defaults, so that a schedule takes seconds. */
export const shortTiming: IngesterTiming = { heartbeatMs: 250, leaseTtlMs: 1_000, scrapeIntervalMs: 200, replayTimeoutMs: 500 };
const stopTimeoutMs = 15_000;

/** One server, reached through a link that can be broken, or the section `redis` that names the others. */
export type RedisAddress =
  | { readonly port: number }
  | { readonly sentinel: { readonly name: string; readonly nodes: readonly string[] } }
  | { readonly cluster: readonly string[] };

/** Everything between one ingester and the others. */
interface Links {
  /** Null where the ingesters are told of the servers by others. */
  readonly redis: TcpProxy | null;
  readonly events: readonly TcpProxy[];
  readonly replay: readonly TcpProxy[];
}

interface Slot {
  readonly links: Links;
  readonly configFile: string;
  readonly logFile: string;
  process: ManagedProcess | null;
}

/** `kvatlas ingester` processes, each with links of its own to Redis and to every replica. */
export class IngesterFleet {
  readonly #slots: readonly Slot[];

  private constructor(slots: readonly Slot[]) {
    this.#slots = slots;
  }

  /** @param slots ingesters that there can be at the same time; none is started. */
  static async create(
    folder: string,
    slots: number,
    redis: RedisAddress,
    replicas: readonly Replica[],
    timing: IngesterTiming,
  ): Promise<IngesterFleet> {
    const create = (_: unknown, slot: number): Promise<Slot> => createSlot(folder, slot, redis, replicas, timing);
    return new IngesterFleet(await Promise.all(Array.from({ length: slots }, create)));
  }

  get size(): number {
    return this.#slots.length;
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

  /** The link of one ingester to one replica, or of all of them where `slot` is null. */
  setLink(kind: "events" | "replay", slot: number | null, replica: number, state: LinkState): void {
    for (const [index, { links }] of this.#slots.entries()) if (slot === null || slot === index) links[kind][replica]?.set(state);
  }

  /** Every link open, nobody stopped. */
  heal(): void {
    for (const { links, process } of this.#slots) {
      process?.resume();
      for (const proxy of proxiesOf(links)) if (proxy.state.kind !== "open") proxy.set({ kind: "open" });
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#slots.map(({ process }) => process?.kill()));
    await Promise.all(this.#slots.flatMap(({ links }) => proxiesOf(links).map((proxy) => proxy.close())));
  }
}

function proxiesOf({ redis, events, replay }: Links): readonly TcpProxy[] {
  return [...(redis === null ? [] : [redis]), ...events, ...replay];
}

async function createSlot(
  folder: string,
  slot: number,
  redis: RedisAddress,
  replicas: readonly Replica[],
  timing: IngesterTiming,
): Promise<Slot> {
  const links: Links = {
    redis: "port" in redis ? await TcpProxy.start(redis.port) : null,
    events: await Promise.all(replicas.map((replica) => TcpProxy.start(replica.eventsPort))),
    replay: await Promise.all(replicas.map((replica) => TcpProxy.start(replica.replayPort))),
  };
  const dial = (proxies: readonly TcpProxy[], replica: number): string => `tcp://127.0.0.1:${proxies[replica]?.port}`;
  const config = {
    redis: links.redis === null ? redis : { url: `redis://127.0.0.1:${links.redis.port}` },
    pools: [
      {
        name: "p",
        model,
        endpoints: {
          static: replicas.map(({ address }, i) => ({ address, events: dial(links.events, i), replay: dial(links.replay, i) })),
        },
      },
    ],
    ingester: { ...timing, admin: "127.0.0.1:0" },
    log: { level: "debug" },
  };
  const configFile = join(folder, `ingester-${slot}.yaml`);
  // JSON is YAML.
  await writeFile(configFile, JSON.stringify(config));
  return { links, configFile, logFile: join(folder, `ingester-${slot}.log`), process: null };
}
