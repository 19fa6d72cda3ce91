import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import type { BlockIndex, IndexOp, IndexWriter, SequencedOps } from "@kvatlas/shared/index/block-index";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys, scopeTag } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection } from "@kvatlas/shared/redis";
import { shardsFor } from "@kvatlas/shared/redis-topology";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { encode } from "@msgpack/msgpack";
import { startRedisCluster } from "../support/redis-cluster.ts";
import { type BenchRedis, startBenchRedis } from "./bench-redis.ts";
import { createRandom, percentiles, round } from "./statistics.ts";

/*
 * The ingest path from a batch's bytes to its blocks in Redis, against the plainest thing Redis can be asked to do: one HSET per block.
 * Batches are as vLLM 0.24 to 0.32 writes them: 64 blocks of 16 tokens stored, and in steady state 64 removed. No socket: that is the ingester's.
 */

const BLOCKS_PER_BATCH = 64;
const TOKENS_PER_BLOCK = 16;
const ENDPOINTS = 8;
/** Batches one apply call takes, as the ingester groups them: about 500 block operations. */
const BATCHES_PER_CALL = 4;
const SCOPE = "qwen3-32b.b16.sha256_cbor.s0" as ScopeId;

type Payload = Uint8Array;

/** Payloads of one endpoint: each stores fresh blocks and, once `held` are stored, removes the oldest as many. */
function payloadsOf(endpoint: number, batches: number, held: number): Payload[] {
  const random = createRandom(endpoint + 1);
  const hashes: bigint[] = [];
  const payloads: Payload[] = [];
  for (let batch = 0; batch < batches; batch += 1) {
    const stored = Array.from({ length: BLOCKS_PER_BATCH }, () => (BigInt(random()) << 32n) | BigInt(random()));
    const parent = hashes.at(-1) ?? null;
    const events: unknown[] = [];
    if (hashes.length >= held) {
      events.push({ type: "BlockRemoved", block_hashes: hashes.splice(0, BLOCKS_PER_BATCH), medium: "GPU", group_idx: 0 });
    }
    hashes.push(...stored);
    events.push({
      type: "BlockStored",
      block_hashes: stored,
      parent_block_hash: parent,
      token_ids: Array.from({ length: BLOCKS_PER_BATCH * TOKENS_PER_BLOCK }, () => random() % 151_936),
      block_size: TOKENS_PER_BLOCK,
      lora_id: null,
      medium: "GPU",
      lora_name: null,
      extra_keys: stored.map(() => null),
      group_idx: 0,
      kv_cache_spec_kind: "full_attention",
    });
    payloads.push(encode([batch / 10, events, 0], { useBigInt64: true }));
  }
  return payloads;
}

function toOps(seq: number, payload: Payload): SequencedOps {
  const ops: IndexOp[] = [];
  for (const event of decodeEventBatch(payload).events) {
    if (event.kind === "cleared") continue;
    const op = event.kind === "stored" ? "store" : "remove";
    // A native scheme: the engine's hash is the key.
    ops.push({ op, medium: event.medium, group: event.group, keys: event.hashes as unknown as readonly BlockKey[] });
  }
  return { seq, ops };
}

interface Endpoint {
  readonly writer: IndexWriter;
  readonly payloads: readonly Payload[];
  next: number;
}

/** Applies an endpoint's batches from `next` to `end`, as fast as Redis takes them; adds each call's milliseconds to `latencies`. */
async function drain(endpoint: Endpoint, end: number, latencies: number[]): Promise<number> {
  let operations = 0;
  while (endpoint.next < end) {
    const began = performance.now();
    const batches: SequencedOps[] = [];
    for (let i = 0; i < BATCHES_PER_CALL && endpoint.next < end; i += 1, endpoint.next += 1) {
      const payload = endpoint.payloads[endpoint.next];
      if (payload === undefined) break;
      const batch = toOps(endpoint.next, payload);
      for (const op of batch.ops) operations += op.keys.length;
      batches.push(batch);
    }
    const result = await endpoint.writer.apply(batches);
    if (result.unknownRemovals > 0 || result.duplicates > 0) throw new Error(`unexpected outcome ${JSON.stringify(result)}`);
    latencies.push(performance.now() - began);
  }
  return operations;
}

async function measure(redis: BenchRedis, work: () => Promise<number>): Promise<Record<string, number>> {
  const [redisBefore, nodeBefore, began] = [await redis.cpuSeconds(), process.cpuUsage(), performance.now()];
  const operations = await work();
  const seconds = (performance.now() - began) / 1_000;
  const node = process.cpuUsage(nodeBefore);
  return {
    operations,
    operationsPerSecond: Math.round(operations / seconds),
    redisMicrosecondsEach: round((((await redis.cpuSeconds()) - redisBefore) * 1e6) / operations),
    nodeMicrosecondsEach: round((node.user + node.system) / operations),
  };
}

async function openEndpoints(index: BlockIndex, payloads: readonly (readonly Payload[])[]): Promise<Endpoint[]> {
  return Promise.all(
    payloads.map(async (list, i) => ({
      writer: await index.openWriter({ scope: SCOPE, endpoint: `10.0.0.${i + 1}:8000` as EndpointId, incarnation: 1, from: 0, fence: 1 }),
      payloads: list,
      next: 0,
    })),
  );
}

/** Open loop: a batch is due at a fixed pace, and its latency counts from when it was due. */
async function paced(endpoints: readonly Endpoint[], batchesPerSecond: number, end: number): Promise<number[]> {
  const latencies: number[] = [];
  const began = performance.now();
  const perEndpointMs = (1_000 * endpoints.length) / batchesPerSecond;
  await Promise.all(
    endpoints.map(async (endpoint, offset) => {
      const first = endpoint.next;
      const dueAt = (batch: number) => began + (batch - first + offset / endpoints.length) * perEndpointMs;
      while (endpoint.next < end) {
        const wait = dueAt(endpoint.next) - performance.now();
        if (wait > 0.5) await new Promise((resolve) => setTimeout(resolve, wait));
        const due: SequencedOps[] = [];
        const times: number[] = [];
        while (endpoint.next < end && dueAt(endpoint.next) <= performance.now() + 0.5 && due.length < BATCHES_PER_CALL) {
          const payload = endpoint.payloads[endpoint.next];
          if (payload === undefined) break;
          due.push(toOps(endpoint.next, payload));
          times.push(dueAt(endpoint.next));
          endpoint.next += 1;
        }
        if (due.length === 0) continue;
        await endpoint.writer.apply(due);
        const done = performance.now();
        for (const time of times) latencies.push(Math.max(0, done - time));
      }
    }),
  );
  return latencies;
}

async function scriptPath(redis: BenchRedis): Promise<object> {
  const [fill, steady, pacedBatches] = [250, 750, 400];
  const payloads = Array.from({ length: ENDPOINTS }, (_, i) => payloadsOf(i, fill + steady + pacedBatches, fill * BLOCKS_PER_BATCH));
  const endpoints = await openEndpoints(createRedisBlockIndex({ connection: redis.connection, keys: createRedisKeys("ingest") }), payloads);
  const run = async (end: number) => {
    const latencies: number[] = [];
    const figures = await measure(redis, async () => {
      const operations = await Promise.all(endpoints.map((endpoint) => drain(endpoint, end, latencies)));
      return operations.reduce((sum, count) => sum + count, 0);
    });
    return { ...figures, callMs: percentiles(latencies) };
  };
  const stores = await run(fill);
  const mixed = await run(fill + steady);
  const rate = (mixed as { operationsPerSecond?: number }).operationsPerSecond ?? 0;
  const half = rate / 2 / (2 * BLOCKS_PER_BATCH);
  const latencies = await paced(endpoints, half, fill + steady + pacedBatches);
  return {
    stores,
    storesAndRemovals: mixed,
    atHalfThatRate: { batchesPerSecond: Math.round(half), eventToVisibleMs: percentiles(latencies) },
  };
}

async function decodeOnly(): Promise<object> {
  const payloads = payloadsOf(0, 2_000, 16_000);
  const began = performance.now();
  let operations = 0;
  for (const [seq, payload] of payloads.entries()) for (const op of toOps(seq, payload).ops) operations += op.keys.length;
  return { operationsPerSecond: Math.round((operations * 1_000) / (performance.now() - began)) };
}

/** One HSET per block and holder, pipelined 512 at a time; what an index without script, copies or watermark could do at best. */
async function rawFloor(redis: BenchRedis, alsoZset: boolean): Promise<Record<string, number>> {
  const keys = createRedisKeys(alsoZset ? "floorz" : "floor");
  const random = createRandom(99);
  const blocks = Array.from({ length: 100_000 }, () =>
    keys.space(scopeTag(SCOPE)).block(0, (BigInt(random()) * 4_294_967_296n).toString(16).padStart(16, "0") as BlockKey),
  );
  return measure(redis, async () => {
    let inFlight: Promise<unknown> = Promise.resolve();
    for (let from = 0; from < blocks.length; from += 512) {
      const pipeline = redis.raw.pipeline();
      for (const block of blocks.slice(from, from + 512)) {
        pipeline.hset(block, "10.0.0.1:8000", "1:gpu");
        if (alsoZset) pipeline.zincrby("floorz:members", 1, block);
      }
      const sent = pipeline.exec();
      // Two pipelines under way: Redis never waits for Node.
      await inFlight;
      inFlight = sent;
    }
    await inFlight;
    return blocks.length;
  });
}

/** Bytes of Redis per block: for the first holder, and for each further one. */
async function bytesPerBlock(redis: BenchRedis): Promise<object> {
  const blocks = 100_000;
  const index = createRedisBlockIndex({ connection: redis.connection, keys: createRedisKeys("kva") });
  const random = createRandom(7);
  const chain = Array.from(
    { length: blocks },
    () => `${random().toString(16).padStart(8, "0")}${random().toString(16).padStart(8, "0")}` as BlockKey,
  );
  const bytes: number[] = [];
  for (let holder = 0; holder < ENDPOINTS; holder += 1) {
    const endpoint = `10.0.0.${holder + 1}:8000` as EndpointId;
    const writer = await index.openWriter({ scope: SCOPE, endpoint, incarnation: holder + 1, from: 0, fence: 1 });
    const before = await redis.usedBytes();
    await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: chain }] }]);
    bytes.push(round(((await redis.usedBytes()) - before) / blocks, 1));
  }
  return {
    keyBytes: createRedisKeys("kva")
      .space(scopeTag(SCOPE))
      .block(0, chain[0] as BlockKey).length,
    byHolder: bytes,
  };
}

/** The same stores and removals on three primaries of a cluster on this machine. */
async function clusterPath(): Promise<object> {
  const [fill, steady] = [250, 500];
  const cluster = await startRedisCluster();
  const connection = createRedisConnection(
    { url: null, cluster: [...cluster.nodes], commandTimeoutMs: 10_000 },
    "background",
    silentLogger,
  );
  try {
    const shards = shardsFor("cluster", cluster.nodes.length);
    const index = createRedisBlockIndex({ connection, keys: createRedisKeys("ingest") }, { defaultShards: shards });
    const payloads = Array.from({ length: ENDPOINTS }, (_, i) => payloadsOf(i, fill + steady, fill * BLOCKS_PER_BATCH));
    const endpoints = await openEndpoints(index, payloads);
    const run = async (end: number) => {
      const latencies: number[] = [];
      const began = performance.now();
      const operations = await Promise.all(endpoints.map((endpoint) => drain(endpoint, end, latencies)));
      const total = operations.reduce((sum, count) => sum + count, 0);
      return { operationsPerSecond: Math.round((total * 1_000) / (performance.now() - began)), callMs: percentiles(latencies) };
    };
    return { primaries: cluster.nodes.length, shards, stores: await run(fill), storesAndRemovals: await run(fill + steady) };
  } finally {
    await connection.close();
    await cluster.stop();
  }
}

export async function run(): Promise<object> {
  const redis = await startBenchRedis();
  try {
    const memory = await bytesPerBlock(redis);
    await redis.raw.flushall("SYNC");
    const warmUp = await rawFloor(redis, false);
    await redis.raw.flushall("SYNC");
    return {
      about: redis.about,
      decode: await decodeOnly(),
      script: await scriptPath(redis),
      cluster: await clusterPath(),
      floors: { hsetPerBlock: await rawFloor(redis, false), hsetAndZincrbyPerBlock: await rawFloor(redis, true) },
      warmUpOperationsPerSecond: warmUp.operationsPerSecond,
      bytesPerBlock: memory,
    };
  } finally {
    await redis.close();
  }
}
