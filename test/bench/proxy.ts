import { type ChildProcess, execFile, fork } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type Dispatcher, Pool } from "undici";
import { readOptions } from "./arguments.ts";
import { type Peer, readPeer, startPeer } from "./peer-process.ts";
import { bodyOf, completionsPath, type Question, type StreamPlan, type TargetRole } from "./proxy-protocol.ts";
import { percentiles, round } from "./statistics.ts";

const model = "bench/model";
const bodySizes = [2_048, 30_720] as const;
const openLoopRate = 300;
/** Idle between bursts: long enough for idle connections to be closed and for the collector to have looked. */
const idleMs = 8_000;

export const usage = `Usage: npm run bench -- proxy [--quick] [--peer NAME=COMMAND ...]

Forwarding: nothing between, a bare reference, a whole router; CPU per request and per chunk, added latency, time to first byte, memory per stream.
--quick   fewer requests, 500 open streams instead of 5,000, no idling
--peer    another proxy, measured in the same run (Linux); {replica} and {port} stand for the replica's host:port and the port to listen on:
          --peer 'vllm-router=vllm-router --host 127.0.0.1 --port {port} --worker-urls http://{replica} --policy round_robin'`;

interface Plan {
  readonly rounds: number;
  /** Before the first round: V8 optimises for as long as that. */
  readonly warmUp: number;
  readonly requests: number;
  readonly openLoopMs: number;
  readonly streams: number;
  /** Waves of streams, of which the medians are taken: one alone tells more of what else the machine was doing. */
  readonly waves: number;
  /** As fast as engines decode for a few users, and as slowly as for many: the first may be more than a small machine can carry. */
  readonly chunks: readonly StreamPlan[];
  readonly heldStreams: number;
  readonly afterIdle: boolean;
}

const whole: Plan = {
  rounds: 5,
  warmUp: 12_000,
  requests: 4_000,
  openLoopMs: 5_000,
  streams: 500,
  waves: 3,
  chunks: [
    { chunks: 100, everyMs: 20 },
    { chunks: 40, everyMs: 100 },
  ],
  heldStreams: 5_000,
  afterIdle: true,
};
const quick: Plan = {
  rounds: 3,
  warmUp: 1_000,
  requests: 1_000,
  openLoopMs: 2_000,
  streams: 200,
  waves: 1,
  chunks: [{ chunks: 40, everyMs: 20 }],
  heldStreams: 500,
  afterIdle: false,
};

const root = fileURLToPath(new URL("../../", import.meta.url));

/** What is measured is what the image runs: the compiled packages, without what a loader of sources adds to every function. */
async function build(): Promise<void> {
  await promisify(execFile)(process.execPath, [createRequire(import.meta.url).resolve("typescript/bin/tsc"), "-b"], { cwd: root });
}

/**
 * What forwarding costs: a client, a replica that answers at once, and between them nothing (`direct`), the least that node:http and undici can do
 * (`bare`), and a whole router with its access log, pool in mode `off` (`router`). Every one is a process of its own; rounds are interleaved and
 * medians taken, so the ratios of one run hold on a busy machine as well. Each proxy is its own process for each of the steps: fresh, warmed up, and,
 * without `--quick`, once more after idling.
 */
export async function run(args: readonly string[] = []): Promise<object> {
  const options = readOptions(args, { values: ["peer"], flags: ["quick"] });
  const plan = options.has("quick") ? quick : whole;
  const peers = options.all("peer").map(readPeer);
  await build();
  const replica = await startTarget("replica", model);
  const running: Target[] = [];
  const startProxies = async () => {
    const started: Target[] = [];
    const add = (target: Target) => {
      started.push(target);
      running.push(target);
    };
    add(await startTarget("bare", model, replica.address));
    add(await startTarget("router", model, replica.address));
    for (const peer of peers) add(await startOther(peer, replica.address));
    return started;
  };
  try {
    const proxies = await startProxies();
    const sizes: Record<string, object> = {};
    for (const bytes of bodySizes) {
      const cpu = await cpuPerRequest(plan, bytes, proxies);
      const latency = await openLoop(plan, bytes, replica, proxies);
      sizes[`${bytes}B`] = { cpuPerRequestUs: cpu, atRate: latency };
    }
    let afterIdle: object | null = null;
    if (plan.afterIdle) {
      await new Promise((resolve) => setTimeout(resolve, idleMs));
      const cpu: Record<string, object> = {};
      for (const bytes of bodySizes) cpu[`${bytes}B`] = await cpuPerRequest({ ...plan, warmUp: 0, rounds: 1 }, bytes, proxies);
      afterIdle = { idleMs, cpuPerRequestUs: cpu };
    }
    const streaming: Record<string, object> = {};
    for (const chunks of plan.chunks) streaming[`every${chunks.everyMs}Ms`] = await streams(plan, chunks, [replica, ...proxies]);
    // Once more, fresh: other proxies may have further ports of their own.
    for (const proxy of running.splice(0)) await proxy.stop();
    const held = await memoryPerStream(plan, await startProxies());
    return { openLoopRate, streams: plan.streams, sizes, afterIdle, streaming, memory: held, routerMode: "off" };
  } finally {
    for (const target of [...running, replica]) await target.stop();
  }
}

interface Target {
  /** `direct`: the replica. */
  readonly name: string;
  readonly address: string;
  ask(question: Question): Promise<number>;
  stop(): Promise<void>;
}

async function startTarget(role: TargetRole, ...args: readonly string[]): Promise<Target> {
  const child: ChildProcess = fork(fileURLToPath(new URL("./proxy-target.ts", import.meta.url)), [role, ...args], {
    execArgv: ["--import", "tsx", "--expose-gc"],
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const exited = once(child, "exit");
  const [said] = (await Promise.race([once(child, "message"), exited])) as [{ readonly address?: string } | number | null];
  if (typeof said !== "object" || said?.address === undefined) throw new Error(`the ${role} did not start`);
  return {
    name: role === "replica" ? "direct" : role,
    address: said.address,
    ask: async (question) => {
      const answered = once(child, "message");
      child.send(question);
      const [figure] = (await answered) as [number];
      return figure;
    },
    stop: async () => {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

async function startOther(peer: Peer, replica: string): Promise<Target> {
  const started = await startPeer(peer, replica, async (address) => {
    const answer = await fetch(`http://${address}${completionsPath}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: bodyOf(model, bodySizes[0], null),
    });
    await answer.arrayBuffer();
    return answer.ok;
  });
  return { name: peer.name, ...started };
}

interface Taken {
  readonly firstByteMs: number;
  readonly totalMs: number;
}

/** One request; rejects unless the whole of a 200 arrives. */
function send(pool: Pool, body: Buffer, onFirst: () => void = () => {}): Promise<Taken> {
  const startedAt = performance.now();
  return new Promise((resolve, reject) => {
    let firstByteMs = 0;
    let status = 0;
    const handler: Dispatcher.DispatchHandler = {
      onConnect: () => {},
      onHeaders: (code) => {
        status = code;
        return true;
      },
      onData: () => {
        if (firstByteMs === 0) {
          firstByteMs = performance.now() - startedAt;
          onFirst();
        }
        return true;
      },
      onComplete: () => {
        if (status === 200) resolve({ firstByteMs, totalMs: performance.now() - startedAt });
        else reject(new Error(`answered ${status}`));
      },
      onError: reject,
    };
    pool.dispatch({ path: completionsPath, method: "POST", headers: ["content-type", "application/json"], body }, handler);
  });
}

function clientOf(target: Target, connections: number): Pool {
  return new Pool(`http://${target.address}`, { connections, pipelining: 1, headersTimeout: 0, bodyTimeout: 0 });
}

/** CPU time of the proxy per request, 16 at a time; median of the rounds. */
async function cpuPerRequest(plan: Plan, bytes: number, targets: readonly Target[]): Promise<Record<string, number>> {
  const body = bodyOf(model, bytes, null);
  const rounds = new Map<string, number[]>(targets.map(({ name }) => [name, []]));
  for (let i = 0; i < plan.rounds; i++) {
    for (const target of targets) {
      const pool = clientOf(target, 16);
      if (i === 0) await closedLoop(pool, body, plan.warmUp);
      await closedLoop(pool, body, Math.ceil(plan.requests / 10));
      const before = await target.ask("cpuUs");
      await closedLoop(pool, body, plan.requests);
      rounds.get(target.name)?.push(((await target.ask("cpuUs")) - before) / plan.requests);
      await pool.destroy();
    }
  }
  return Object.fromEntries([...rounds].map(([name, values]) => [name, round(percentiles(values).p50, 1)]));
}

async function closedLoop(pool: Pool, body: Buffer, requests: number): Promise<void> {
  let left = requests;
  const worker = async () => {
    while (left-- > 0) await send(pool, body);
  };
  await Promise.all(Array.from({ length: 16 }, worker));
}

/** Latency at a fixed rate, whatever the answers do; the ways take turns in short slices, so that all meet the same disturbances. */
async function openLoop(plan: Plan, bytes: number, replica: Target, proxies: readonly Target[]): Promise<object> {
  const body = bodyOf(model, bytes, null);
  const slices = 5;
  const targets = [replica, ...proxies];
  const taken = new Map<string, number[]>(targets.map(({ name }) => [name, []]));
  const pools = Object.fromEntries(targets.map((target) => [target.name, clientOf(target, 64)]));
  for (let slice = 0; slice < slices; slice++) {
    for (const [name, pool] of Object.entries(pools)) {
      const count = Math.floor((plan.openLoopMs / 1_000 / slices) * openLoopRate);
      const startedAt = performance.now();
      const pending: Promise<void>[] = [];
      await new Promise<void>((resolve) => {
        let sent = 0;
        const timer = setInterval(() => {
          const due = Math.min(count, Math.floor(((performance.now() - startedAt) / 1_000) * openLoopRate));
          for (; sent < due; sent++) {
            // Time counts from when the request was due, so that a stall of the proxy is not hidden by requests that are not sent.
            const late = performance.now() - (startedAt + (sent * 1_000) / openLoopRate);
            pending.push(
              send(pool, body).then(({ totalMs }) => void taken.get(name)?.push(totalMs + Math.max(0, late - 1_000 / openLoopRate))),
            );
          }
          if (sent < count) return;
          clearInterval(timer);
          resolve();
        }, 1);
      });
      await Promise.all(pending);
    }
  }
  for (const pool of Object.values(pools)) await pool.destroy();
  const latency = Object.fromEntries([...taken].map(([name, values]) => [name, percentiles(values)]));
  const added = (p: "p50" | "p99") =>
    Object.fromEntries(proxies.map(({ name }) => [name, round((latency[name]?.[p] ?? 0) - (latency[replica.name]?.[p] ?? 0))]));
  return { latencyMs: latency, addedP50Ms: added("p50"), addedP99Ms: added("p99") };
}

interface Wave {
  readonly firstByteMs: ReturnType<typeof percentiles>;
  readonly cpuPerChunkUs: number;
}

/** Many event streams at a time: time to first byte while the others run, and CPU per chunk. The ways take turns. */
async function streams(plan: Plan, chunks: StreamPlan, targets: readonly Target[]): Promise<object> {
  const pools = new Map(targets.map((target) => [target, clientOf(target, plan.streams)]));
  const waves = new Map<Target, Wave[]>(targets.map((target) => [target, []]));
  for (let i = 0; i < plan.waves; i++) {
    for (const [target, pool] of pools) waves.get(target)?.push(await wave(plan.streams, chunks, target, pool));
  }
  for (const pool of pools.values()) await pool.destroy();
  const median = (of: readonly Wave[], figure: (wave: Wave) => number) => round(percentiles(of.map(figure)).p50);
  return Object.fromEntries(
    [...waves].map(([{ name }, of]) => [
      name,
      {
        firstByteMs: { p50: median(of, ({ firstByteMs }) => firstByteMs.p50), p99: median(of, ({ firstByteMs }) => firstByteMs.p99) },
        cpuPerChunkUs: median(of, ({ cpuPerChunkUs }) => cpuPerChunkUs),
      },
    ]),
  );
}

async function wave(count: number, chunks: StreamPlan, target: Target, pool: Pool): Promise<Wave> {
  const first = bodyOf(model, bodySizes[0], { chunks: 1, everyMs: 1 });
  const body = bodyOf(model, bodySizes[0], chunks);
  const spreadMs = chunks.chunks * chunks.everyMs;
  // Short streams open the connections; those that are measured arrive spread over the length of one.
  await Promise.all(Array.from({ length: count }, () => send(pool, first)));
  const before = await target.ask("cpuUs");
  const taken = await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      await new Promise((resolve) => setTimeout(resolve, (i * spreadMs) / count));
      return send(pool, body);
    }),
  );
  const after = await target.ask("cpuUs");
  return {
    firstByteMs: percentiles(taken.map(({ firstByteMs }) => firstByteMs)),
    cpuPerChunkUs: (after - before) / (count * (chunks.chunks + 1)),
  };
}

/** Resident memory of a proxy per open and silent stream. */
async function memoryPerStream(plan: Plan, targets: readonly Target[]): Promise<object> {
  const body = bodyOf(model, bodySizes[0], null);
  const held = bodyOf(model, bodySizes[0], { chunks: 2, everyMs: 600_000 });
  const figures: Record<string, object> = {};
  for (const target of targets) {
    const pool = clientOf(target, plan.heldStreams);
    await closedLoop(pool, body, plan.requests);
    const before = await target.ask("residentBytes");
    const wave = 250;
    const open: Promise<unknown>[] = [];
    for (let from = 0; from < plan.heldStreams; from += wave) {
      const firsts = Array.from({ length: Math.min(wave, plan.heldStreams - from) }, () => {
        let onFirst: () => void = () => {};
        const first = new Promise<void>((resolve) => {
          onFirst = resolve;
        });
        const stream = send(pool, held, onFirst);
        open.push(stream.catch(() => {}));
        return first;
      });
      await Promise.all(firsts);
    }
    const after = await target.ask("residentBytes");
    figures[target.name] = {
      streams: plan.heldStreams,
      kibPerStream: round((after - before) / 1_024 / plan.heldStreams, 1),
    };
    await pool.destroy();
    await Promise.all(open);
  }
  return figures;
}
