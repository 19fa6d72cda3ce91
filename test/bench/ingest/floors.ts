import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRedisKeys, formatPosition, scopeTag } from "@kvatlas/shared/index/redis-keys";
import type { ScopeId } from "@kvatlas/shared/types";
import { createRandom } from "../statistics.ts";
import { blocksPerBatch } from "./engine-batches.ts";
import { type Cost, measured } from "./measured.ts";
import { encodeCommand, PreparedCommands } from "./prepared-commands.ts";
import type { BenchServers } from "./servers.ts";

/*
 * What the same Redis does at best. `bareScript`: the script that applies operations, called with arguments that were made beforehand, by nobody in
 * particular; an ingester cannot be faster. `hsetPerBlock`: one HSET for each stored block, without script, copies, watermark or fence.
 */

const endpoint = "127.0.0.1:1";
const incarnation = 1;
const fence = 1;
/** As the ingester groups them: about 500 block operations, stores and removals in turn. */
const batchesPerCall = 4;
const operationsPerCall = batchesPerCall * blocksPerBatch * 2;
/** Calls under way at a time for each shard: enough that Redis never waits. */
const callsUnderWay = 8;
const hsetsPerGroup = 512;
const groupsUnderWay = 4;

/** Calls of the script for one shard, from one position to the next. */
interface ShardCalls {
  readonly shard: number;
  next: number;
}

/** The script alone. Positions go on from round to round. */
export class BareScript {
  readonly #servers: BenchServers;
  readonly #sha1: string;
  readonly #shards: readonly ShardCalls[];
  readonly #space;
  readonly #random = createRandom(5);
  /** Keys that each shard holds, oldest first. */
  readonly #held: string[][];

  private constructor(servers: BenchServers, sha1: string) {
    this.#servers = servers;
    this.#sha1 = sha1;
    this.#space = createRedisKeys("bar").space(scopeTag("bare" as ScopeId));
    this.#shards = Array.from({ length: servers.shards }, (_, shard) => ({ shard, next: 0 }));
    this.#held = this.#shards.map(() => Array.from({ length: batchesPerCall * callsUnderWay }, () => this.#freshKeys()));
  }

  /** @param source - of the script; by default the one that kvatlas uses */
  static async start(servers: BenchServers, source?: string): Promise<BareScript> {
    const file = new URL("../../../packages/shared/lua/apply-1.lua", import.meta.url);
    const script = source ?? (await readFile(file, "utf8"));
    const bare = new BareScript(servers, createHash("sha1").update(script).digest("hex"));
    for (const { shard } of bare.#shards) {
      const seq = bare.#space.seq(shard);
      await servers.client.hset(seq, endpoint, positionOf(-1));
      // Makes the server of this shard know the script.
      await servers.client.eval(script, 1, seq, "", "nobody", "", "", "1", "");
      const runs = (bare.#held[shard] ?? []).flatMap((keys) => ["+gpu", keys]);
      await bare.#call(shard, runs, positionOf(-1), positionOf(-1));
    }
    return bare;
  }

  /** Stores and removals in equal parts, over all shards. */
  async round(operations: number): Promise<Cost> {
    const perShard = Math.ceil(operations / operationsPerCall / this.#shards.length);
    const made = this.#shards.map((state) => Array.from({ length: perShard }, () => this.#prepare(state)));
    return measured(this.#servers, null, async () => {
      await Promise.all(
        this.#shards.map(async ({ shard }, i) => {
          const underWay: Promise<unknown>[] = [];
          for (const { runs, from, to } of made[i] ?? []) {
            if (underWay.length >= callsUnderWay) await underWay.shift();
            underWay.push(this.#call(shard, runs, from, to));
          }
          await Promise.all(underWay);
        }),
      );
      return perShard * this.#shards.length * operationsPerCall;
    });
  }

  #prepare(state: ShardCalls): { readonly runs: readonly string[]; readonly from: string; readonly to: string } {
    const held = this.#held[state.shard] ?? [];
    const runs: string[] = [];
    for (let batch = 0; batch < batchesPerCall; batch += 1) {
      const fresh = this.#freshKeys();
      held.push(fresh);
      runs.push("-gpu", held.shift() ?? "", "+gpu", fresh);
    }
    const last = state.next - 1;
    state.next += batchesPerCall;
    return { runs, from: positionOf(last), to: positionOf(state.next - 1) };
  }

  async #call(shard: number, runs: readonly string[], from: string, to: string): Promise<void> {
    const args = [this.#space.blockPrefix(shard), endpoint, from, to, incarnation, "", ...runs];
    const reply = await this.#servers.client.evalsha(this.#sha1, 1, this.#space.seq(shard), ...args);
    if (!Array.isArray(reply) || reply[0] !== 0) throw new Error(`the script answered ${JSON.stringify(reply)} in shard ${shard}`);
  }

  #freshKeys(): string {
    return Array.from({ length: blocksPerBatch }, () => hex(this.#random()) + hex(this.#random())).join("");
  }
}

/** One HSET per block, pipelined to every primary. */
export async function hsetPerBlock(servers: BenchServers, blocks: number): Promise<Cost> {
  const space = createRedisKeys("flo").space(scopeTag("floor" as ScopeId));
  const random = createRandom(99);
  const groups = new Map<number, { readonly bytes: Buffer; readonly commands: number }[]>();
  const count = Math.ceil(blocks / hsetsPerGroup);
  for (let group = 0; group < count; group += 1) {
    const shard = group % servers.shards;
    const commands = Array.from({ length: hsetsPerGroup }, () =>
      encodeCommand(["HSET", `${space.blockPrefix(shard)}${hex(random())}${hex(random())}`, endpoint, "1:gpu"]),
    );
    const port = servers.portOf(space.seq(shard));
    const list = groups.get(port) ?? [];
    groups.set(port, list);
    list.push({ bytes: Buffer.from(commands.join("")), commands: hsetsPerGroup });
  }
  const links = await Promise.all([...groups].map(async ([port, list]) => ({ link: await PreparedCommands.connect(port), list })));
  try {
    return await measured(servers, null, async () => {
      await Promise.all(links.map(({ link, list }) => link.send(list, groupsUnderWay)));
      return count * hsetsPerGroup;
    });
  } finally {
    for (const { link } of links) link.close();
  }
}

function positionOf(seq: number): string {
  return formatPosition({ incarnation, fence, mark: { seq, part: null } });
}

function hex(word: number): string {
  return word.toString(16).padStart(8, "0");
}
