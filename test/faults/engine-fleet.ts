import { join } from "node:path";
import { type ReplicaDump, readReplicaDumps } from "@kvatlas/shared/index/replica-dump";
import { Agent, request } from "undici";
import { eventually } from "../support/eventually.ts";
import { freePortRange } from "../support/free-ports.ts";
import { ManagedProcess } from "../support/managed-process.ts";
import { replayFrames } from "../support/simulator-client.ts";
import type { BufferedBatch } from "./index-truth.ts";

export const model = "sim";
export const blockSize = 16;
/** Small enough for evictions at a modest rate. */
const blocksPerReplica = 160;
/** Batches in the replay buffers of each process: those of the second one roll. */
const bufferSteps: readonly [number, number] = [2_000, 40];
const requestTimeoutMs = 5_000;

/** One replica of a simulator process, at ports that it keeps when the process is another one. */
export interface Replica {
  readonly address: string;
  readonly process: number;
  readonly eventsPort: number;
  readonly replayPort: number;
}

/** Two processes of simulated replicas. */
export class EngineFleet {
  readonly replicas: readonly Replica[];
  readonly #folder: string;
  readonly #bases: readonly number[];
  readonly #perProcess: number;
  readonly #processes: (ManagedProcess | null)[];
  readonly #agent = new Agent({ connections: 64, keepAliveTimeout: 1_000 });

  private constructor(folder: string, bases: readonly number[], perProcess: number) {
    this.#folder = folder;
    this.#bases = bases;
    this.#perProcess = perProcess;
    this.#processes = bases.map(() => null);
    this.replicas = bases.flatMap((base, process) =>
      Array.from({ length: perProcess }, (_, i) => ({
        address: `127.0.0.1:${base + i}`,
        process,
        eventsPort: base + perProcess + i,
        replayPort: base + 2 * perProcess + i,
      })),
    );
  }

  /** @param replicas an even number */
  static async start(folder: string, replicas: number): Promise<EngineFleet> {
    const perProcess = Math.max(1, replicas / bufferSteps.length);
    const bases: number[] = [];
    for (const _ of bufferSteps) bases.push(await freePortRange(3 * perProcess));
    const fleet = new EngineFleet(folder, bases, perProcess);
    await Promise.all(bases.map((_, process) => fleet.startProcess(process)));
    return fleet;
  }

  /** Resolves when all of its replicas answer. */
  async startProcess(index: number): Promise<void> {
    const base = this.#bases[index];
    if (base === undefined || this.#processes[index]?.isAlive) return;
    const options = {
      port: base,
      replicas: this.#perProcess,
      "kv-events-endpoint": `tcp://*:${base + this.#perProcess}`,
      "replay-endpoint": `tcp://*:${base + 2 * this.#perProcess}`,
      model,
      seed: 42,
      speed: 20,
      "num-blocks": blocksPerReplica,
      "block-size": blockSize,
      "buffer-steps": bufferSteps[index] ?? bufferSteps[0],
    };
    const args = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
    this.#processes[index] = new ManagedProcess(["simulator", ...args], {}, join(this.#folder, `engines-${index}.log`));
    const mine = this.replicas.filter((replica) => replica.process === index);
    await eventually(() => Promise.all(mine.map((replica) => this.get(replica, "/health"))), 30_000);
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
  async post(replica: Replica, path: string, content: unknown = {}, signal?: AbortSignal): Promise<void> {
    const { statusCode, body } = await request(`http://${replica.address}${path}`, {
      method: "POST",
      dispatcher: this.#agent,
      headers: { "content-type": "application/json" },
      body: JSON.stringify(content),
      ...(signal === undefined ? {} : { signal }),
    });
    const text = await body.text();
    if (statusCode !== 200) throw new Error(`${replica.address}${path} answered ${statusCode}: ${text}`);
  }

  complete(replica: Replica, tokens: readonly number[], maxTokens: number, signal?: AbortSignal): Promise<void> {
    return this.post(replica, "/v1/completions", { model, prompt: tokens, max_tokens: maxTokens }, signal);
  }

  faults(replica: Replica, faults: Readonly<Record<string, unknown>>): Promise<void> {
    return this.post(replica, "/sim/faults", faults);
  }

  /** What the replica holds. */
  async dump(replica: Replica): Promise<ReplicaDump> {
    const [dump] = readReplicaDumps(replica.address, await this.get(replica, "/sim/blocks"));
    if (dump === undefined) throw new Error(`${replica.address} has not shown what it holds`);
    return dump;
  }

  /** What its replay buffer still has. */
  async buffered(replica: Replica): Promise<readonly BufferedBatch[]> {
    const { frames, ended } = await replayFrames(`tcp://127.0.0.1:${replica.replayPort}`, 0);
    if (!ended) throw new Error(`${replica.address} has not answered a replay to its end`);
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
