import { join } from "node:path";
import { type ReplicaDump, readReplicaDumps } from "@kvatlas/shared/index/replica-dump";
import type { EndpointId } from "@kvatlas/shared/types";
import { Agent, request } from "undici";
import { eventually } from "../support/eventually.ts";
import type { PortPool } from "../support/free-ports.ts";
import { ManagedProcess } from "../support/managed-process.ts";
import { replayFrames } from "../support/simulator-client.ts";
import { type Arrangement, plainArrangement } from "./arrangement.ts";
import { type BlockNames, contentNames, nativeNames } from "./block-names.ts";
import type { BufferedBatch } from "./index-truth.ts";

export const model = "sim";
export const blockSize = 16;
/** PYTHONHASHSEED of every engine. */
const engineSeed = "42";
/** Small enough for evictions at a modest rate. */
const blocksPerReplica = 160;
/** More than the GPU's, and few enough for evictions. */
const hostBlocksPerReplica = 240;
const processCount = 2;
const requestTimeoutMs = 5_000;
const startTimeoutMs = 60_000;

/** One replica of a simulator process, at ports that it keeps when the process is another one. Further ranks have the ports that follow. */
export interface Replica {
  readonly address: string;
  readonly process: number;
  readonly eventsPort: number;
  readonly replayPort: number;
}

export interface EngineFleetOptions {
  readonly ports: PortPool;
  /** An even number. */
  readonly replicas: number;
  /** @defaultValue the plain one */
  readonly arrangement?: Arrangement;
}

/** Two processes of simulated replicas. */
export class EngineFleet {
  readonly replicas: readonly Replica[];
  readonly ranks: number;
  /** How the index names what these engines hold. */
  readonly names: BlockNames;
  readonly #folder: string;
  readonly #arrangement: Arrangement;
  readonly #bases: readonly number[];
  readonly #perProcess: number;
  readonly #processes: (ManagedProcess | null)[];
  readonly #agent = new Agent({ connections: 64, keepAliveTimeout: 1_000 });
  /** Where the engines of each process dial; null: they bind. */
  #dial: ((process: number) => string) | null = null;

  private constructor(folder: string, arrangement: Arrangement, bases: readonly number[], perProcess: number) {
    this.#folder = folder;
    this.#arrangement = arrangement;
    this.#bases = bases;
    this.#perProcess = perProcess;
    this.#processes = bases.map(() => null);
    const ranks = Number(arrangement.ranks);
    this.ranks = ranks;
    this.names =
      arrangement.keys === "native"
        ? nativeNames
        : contentNames({ model, blockSizeTokens: blockSize, engineVersion: arrangement.engine, engineSeed, contentSeed: "" });
    this.replicas = bases.flatMap((base, process) =>
      Array.from({ length: perProcess }, (_, i) => ({
        address: `127.0.0.1:${base + i}`,
        process,
        eventsPort: base + perProcess + i * ranks,
        replayPort: base + perProcess * (1 + ranks) + i * ranks,
      })),
    );
  }

  /** Decides on ports; nothing runs before `start`. */
  static async create(folder: string, { ports, replicas, arrangement = plainArrangement }: EngineFleetOptions): Promise<EngineFleet> {
    const perProcess = Math.max(1, replicas / processCount);
    const bases: number[] = [];
    for (let i = 0; i < processCount; i++) bases.push(await ports.take(perProcess * (1 + 2 * Number(arrangement.ranks))));
    return new EngineFleet(folder, arrangement, bases, perProcess);
  }

  /** @param dial - where the publishers of each process dial; without it they bind */
  async start(dial: ((process: number) => string) | null = null): Promise<void> {
    this.#dial = dial;
    await Promise.all(this.#bases.map((_, process) => this.startProcess(process)));
  }

  /** One for each rank of each replica. */
  get endpoints(): readonly EndpointId[] {
    return this.replicas.flatMap((replica) => this.endpointsOf(replica));
  }

  endpointsOf({ address }: Replica): readonly EndpointId[] {
    return Array.from({ length: this.ranks }, (_, rank) => (rank === 0 ? address : `${address}/${rank}`) as EndpointId);
  }

  /** Resolves when all of its replicas answer. */
  async startProcess(index: number): Promise<void> {
    const base = this.#bases[index];
    if (base === undefined) return;
    const running = this.#processes[index];
    const process = running?.isAlive ? running : this.#spawn(index, base);
    this.#processes[index] = process;
    const mine = this.replicas.filter((replica) => replica.process === index);
    await eventually(async () => {
      if (process.isAlive) await Promise.all(mine.map((replica) => this.get(replica, "/health")));
    }, startTimeoutMs);
    // It may have been killed by another fault meanwhile, or found its ports taken.
    if (!process.isAlive) throw new Error(`the engines at port ${base} have ended; see engines-${index}.log`);
  }

  #spawn(index: number, base: number): ManagedProcess {
    const { buffers, engine, host } = this.#arrangement;
    const perProcess = this.#perProcess;
    const options = {
      port: base,
      replicas: perProcess,
      "kv-events-endpoint": this.#dial?.(index) ?? `tcp://*:${base + perProcess}`,
      "replay-endpoint": `tcp://*:${base + perProcess * (1 + this.ranks)}`,
      topic: this.#dial === null ? "" : "auto",
      model,
      seed: engineSeed,
      speed: 20,
      "engine-version": engine,
      "data-parallel-size": this.ranks,
      "num-blocks": blocksPerReplica,
      "host-blocks": host === "none" ? 0 : hostBlocksPerReplica,
      "block-size": blockSize,
      "buffer-steps": buffers.split(",")[index] ?? "",
    };
    const args = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
    return new ManagedProcess(["simulator", ...args], {}, join(this.#folder, `engines-${index}.log`));
  }

  async killProcess(index: number): Promise<void> {
    await this.#processes[index]?.kill();
  }

  async get(replica: Replica, path: string): Promise<unknown> {
    const { statusCode, body } = await request(`http://${replica.address}${path}`, {
      dispatcher: this.#agent,
      headersTimeout: requestTimeoutMs,
    });
    const text = await body.text();
    if (statusCode !== 200) throw new Error(`${replica.address}${path} answered ${statusCode}: ${text}`);
    return text === "" ? null : JSON.parse(text);
  }

  /** Rejects with whatever the replica has to say against it; a process that is down is one of these. */
  async post(replica: Replica, path: string, content: unknown = {}, options: PostOptions = {}): Promise<void> {
    const { statusCode, body } = await request(`http://${replica.address}${path}`, {
      method: "POST",
      dispatcher: this.#agent,
      headers: {
        "content-type": "application/json",
        ...(options.rank === undefined ? {} : { "x-data-parallel-rank": String(options.rank) }),
      },
      body: JSON.stringify(content),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    const text = await body.text();
    if (statusCode !== 200) throw new Error(`${replica.address}${path} answered ${statusCode}: ${text}`);
  }

  complete(replica: Replica, tokens: readonly number[], maxTokens: number, options: PostOptions = {}): Promise<void> {
    this.names.expect(tokens, maxTokens);
    return this.post(replica, "/v1/completions", { model, prompt: tokens, max_tokens: maxTokens }, options);
  }

  faults(replica: Replica, faults: Readonly<Record<string, unknown>>): Promise<void> {
    return this.post(replica, "/sim/faults", faults);
  }

  /** What the replica holds, by rank and medium. */
  async dumps(replica: Replica): Promise<readonly ReplicaDump[]> {
    const dumps = readReplicaDumps(replica.address, await this.get(replica, "/sim/blocks"));
    if (dumps.length === 0) throw new Error(`${replica.address} has not shown what it holds`);
    return dumps;
  }

  /** @throws Error no such endpoint */
  placeOf(endpoint: EndpointId): { readonly replica: Replica; readonly rank: number } {
    const [address, rank = "0"] = endpoint.split("/", 2);
    const replica = this.replicas.find((candidate) => candidate.address === address);
    if (replica === undefined) throw new Error(`there is no replica ${endpoint}`);
    return { replica, rank: Number(rank) };
  }

  /** What the replay buffer of a rank still has. */
  async buffered(endpoint: EndpointId): Promise<readonly BufferedBatch[]> {
    const { replica, rank } = this.placeOf(endpoint);
    const { frames, ended } = await replayFrames(`tcp://127.0.0.1:${replica.replayPort + rank}`, 0);
    if (!ended) throw new Error(`${endpoint} has not answered a replay to its end`);
    return frames.slice(0, -1).flatMap((message) => {
      const [seq, payload] = [message.at(-2), message.at(-1)];
      return seq === undefined || payload === undefined ? [] : [{ seq: Number(seq.readBigUInt64BE()), payload }];
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.#processes.map((process) => process?.kill()));
    await this.#agent.destroy();
  }
}

export interface PostOptions {
  readonly signal?: AbortSignal;
  /** The data-parallel rank that is to do it. */
  readonly rank?: number;
}
