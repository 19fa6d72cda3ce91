import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { type BenchRedis, startBenchRedis } from "./bench-redis.ts";
import { createRandom, percentiles, round } from "./statistics.ts";

/*
 * Ways to write the same index into Redis, with real scripts against a real server, to choose one by bytes and speed: a HASH per block (what kvatlas uses), a
 * STRING per block, and a HASH per bucket of blocks whose keys begin with the same digits. docs/adr tells what was chosen.
 *
 * KVATLAS_BENCH_BLOCKS picks other numbers of blocks, e.g. "16000000", KVATLAS_BENCH_ENCODINGS some of the encodings, by name, and KVATLAS_BENCH_HOLDERS
 * another number of holders.
 */

const OPS_PER_CALL = 500;
/** Script calls under way at a time: Redis never waits for Node. */
const CALLS_PER_SEND = 8;
/** Blocks that are stored twice and removed again to time those operations. */
const TIMED_BLOCKS = 50_000;
const CHAINS = { short: 24, long: 2_000 };
const READS = 200;

interface Encoding {
  readonly name: string;
  /** Scripts, as paths from here. */
  readonly apply: string;
  readonly read: string;
  /** How many digits of a block key name its bucket; null where a block has a key of its own. */
  readonly digits: number | null;
}

const OURS = "../../packages/shared/lua";

const encodings: readonly Encoding[] = [
  { name: "hashPerBlock", apply: `${OURS}/apply-1.lua`, read: `${OURS}/read-1.lua`, digits: null },
  { name: "stringPerBlock", apply: "./encodings/string-apply.lua", read: "./encodings/string-read.lua", digits: 0 },
  ...[3, 4, 5].map((digits) => ({
    name: `bucketsOf${digits}Digits`,
    apply: "./encodings/bucket-apply.lua",
    read: "./encodings/bucket-read.lua",
    digits,
  })),
];

interface Script {
  readonly sha1: string;
}

async function load(redis: BenchRedis, path: string): Promise<Script> {
  const source = readFileSync(new URL(path, import.meta.url), "utf8");
  await redis.raw.script("LOAD", source);
  return { sha1: createHash("sha1").update(source).digest("hex") };
}

const SEQ = "kva:{OZW.0}:seq";
const PREFIX = "kva:{OZW.0}:b:";
const endpointOf = (holder: number) => `10.0.0.${holder + 1}:8000`;
/** As high as a fleet gets that restarts a thousand engines a day for some weeks. */
const incarnationOf = (holder: number) => 20_000 + holder;

/** Applies keys in calls of 500 operations each; answers with operations per second, Redis' microseconds each and the longest call. */
class Writer {
  readonly #redis: BenchRedis;
  readonly #script: Script;
  readonly #encoding: Encoding;
  readonly #seqs = new Map<number, number>();

  constructor(redis: BenchRedis, script: Script, encoding: Encoding) {
    this.#redis = redis;
    this.#script = script;
    this.#encoding = encoding;
  }

  async open(holder: number): Promise<void> {
    this.#seqs.set(holder, 0);
    await this.#redis.raw.hset(SEQ, endpointOf(holder), `${incarnationOf(holder)}:1:0`);
  }

  async apply(holder: number, op: "+gpu" | "-gpu", keys: Iterable<readonly string[]>): Promise<Record<string, number>> {
    const cpu = await this.#redis.cpuSeconds();
    const began = performance.now();
    let operations = 0;
    let pending: Promise<unknown> = Promise.resolve();
    let pipeline = this.#redis.raw.pipeline();
    const flush = async () => {
      const sent = pipeline.exec().then((replies) => {
        for (const [error, reply] of replies ?? []) if (error !== null || !Array.isArray(reply)) throw error ?? new Error(String(reply));
      });
      await pending;
      pending = sent;
      pipeline = this.#redis.raw.pipeline();
    };
    for (const slice of keys) {
      this.#call(pipeline, holder, op, slice);
      operations += slice.length;
      if (pipeline.length >= CALLS_PER_SEND) await flush();
    }
    await flush();
    await pending;
    const seconds = (performance.now() - began) / 1_000;
    return {
      operationsPerSecond: Math.round(operations / seconds),
      redisMicrosecondsEach: round((((await this.#redis.cpuSeconds()) - cpu) * 1e6) / operations),
    };
  }

  /** Milliseconds of single calls, one after the other. */
  async latencies(holder: number, op: "+gpu" | "-gpu", keys: Iterable<readonly string[]>): Promise<number[]> {
    const times: number[] = [];
    for (const slice of keys) {
      const pipeline = this.#redis.raw.pipeline();
      this.#call(pipeline, holder, op, slice);
      const began = performance.now();
      await pipeline.exec();
      times.push(performance.now() - began);
    }
    return times;
  }

  #call(pipeline: ReturnType<BenchRedis["raw"]["pipeline"]>, holder: number, op: string, slice: readonly string[]): void {
    const seq = this.#seqs.get(holder) ?? 0;
    this.#seqs.set(holder, seq + 1);
    const [incarnation, digits] = [incarnationOf(holder), this.#encoding.digits];
    const position = (at: number) => `${incarnation}:1:${at}`;
    pipeline.evalsha(
      this.#script.sha1,
      1,
      SEQ,
      PREFIX,
      ...(digits === null ? [] : [digits]),
      endpointOf(holder),
      position(seq),
      position(seq + 1),
      incarnation,
      "",
      op,
      slice.join(""),
    );
  }
}

/** Keys are made anew each time: sixteen million of them would need more memory than the index. */
function* keysOf(blocks: number, perSlice = OPS_PER_CALL): Generator<readonly string[]> {
  const random = createRandom(7);
  const word = () => random().toString(16).padStart(8, "0");
  for (let from = 0; from < blocks; from += perSlice) {
    yield Array.from({ length: Math.min(perSlice, blocks - from) }, () => `${word()}${word()}`);
  }
}

async function timeReads(redis: BenchRedis, script: Script, encoding: Encoding, blocks: number, positions: number): Promise<object> {
  const [chain = []] = keysOf(blocks, positions);
  const times: number[] = [];
  const cpu = await redis.cpuSeconds();
  const reads = positions > 1_000 ? READS / 4 : READS;
  for (let i = 0; i < reads; i += 1) {
    const began = performance.now();
    await Promise.all(
      Array.from({ length: Math.ceil(positions / OPS_PER_CALL) }, (_, part) =>
        redis.raw.evalsha(
          script.sha1,
          1,
          SEQ,
          PREFIX,
          ...(encoding.digits === null ? [] : [encoding.digits]),
          chain.slice(part * OPS_PER_CALL, (part + 1) * OPS_PER_CALL).join(""),
          part === 0 ? 1 : 0,
        ),
      ),
    );
    times.push(performance.now() - began);
  }
  return { ms: percentiles(times), redisMicroseconds: Math.round((((await redis.cpuSeconds()) - cpu) * 1e6) / reads) };
}

async function measure(redis: BenchRedis, encoding: Encoding, blocks: number, holders: number): Promise<object> {
  await redis.raw.flushall("SYNC");
  const [apply, read] = [await load(redis, encoding.apply), await load(redis, encoding.read)];
  const writer = new Writer(redis, apply, encoding);
  const bytes: number[] = [];
  const store = async (holder: number) => {
    await writer.open(holder);
    const before = await redis.usedBytes();
    const figures = await writer.apply(holder, "+gpu", keysOf(blocks));
    bytes.push(round(((await redis.usedBytes()) - before) / blocks, 1));
    return figures;
  };
  const timed = Math.min(blocks, TIMED_BLOCKS);
  const operate = async () => ({
    duplicates: await writer.apply(0, "+gpu", keysOf(timed)),
    removalsOfCopies: await writer.apply(0, "-gpu", keysOf(timed)),
    removals: await writer.apply(0, "-gpu", keysOf(timed)),
    stores: await writer.apply(0, "+gpu", keysOf(timed)),
    callMs: percentiles([...(await writer.latencies(0, "-gpu", keysOf(timed))), ...(await writer.latencies(0, "+gpu", keysOf(timed)))]),
    read24: await timeReads(redis, read, encoding, blocks, CHAINS.short),
    read2000: await timeReads(redis, read, encoding, blocks, CHAINS.long),
  });
  const filling = await store(0);
  const alone = { filling, ...(await operate()) };
  for (let holder = 1; holder < holders; holder += 1) await store(holder);
  return { bytesByHolder: bytes, keys: await redis.raw.dbsize(), withOneHolder: alone, [`with${holders}Holders`]: await operate() };
}

export async function run(): Promise<object> {
  const sizes = (process.env.KVATLAS_BENCH_BLOCKS ?? "100000,1000000").split(",").map(Number);
  const holders = Number(process.env.KVATLAS_BENCH_HOLDERS ?? 8);
  const only = process.env.KVATLAS_BENCH_ENCODINGS?.split(",");
  const redis = await startBenchRedis();
  try {
    const results: Record<string, object> = {};
    for (const blocks of sizes) {
      for (const encoding of encodings) {
        if (only !== undefined && !only.includes(encoding.name)) continue;
        const name = `${encoding.name} ${blocks}`;
        results[name] = await measure(redis, encoding, blocks, holders);
        // A run over all of them takes minutes.
        console.error(JSON.stringify({ [name]: results[name] }));
      }
    }
    return { about: redis.about, operationsPerCall: OPS_PER_CALL, results };
  } finally {
    await redis.close();
  }
}
