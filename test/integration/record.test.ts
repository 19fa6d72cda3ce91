import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { recordCommand } from "@kvatlas/cli/commands/record";
import { verifyCommand } from "@kvatlas/cli/commands/verify";
import { createSimulator, type Simulator, type SimulatorOptions } from "@kvatlas/simulator/app";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { runInProcess } from "../support/run-command.ts";

interface Report {
  readonly scheme: string | null;
  readonly keysChecked: number;
  readonly keysEqual: number;
  readonly requestsChecked: number;
  readonly hitsEqual: number;
  readonly skipped: Readonly<Record<string, number>>;
  readonly problems: readonly unknown[];
}

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "kvatlas-record-"));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

const tokens = (from: number, length: number): number[] => Array.from({ length }, (_, i) => (from * 7_919 + i * 31) % 50_000);
const completion = (prompt: unknown, more: Readonly<Record<string, unknown>> = {}) => ({
  model: "simulated",
  prompt,
  max_tokens: 3,
  return_token_ids: true,
  ...more,
});

/** Shared prefixes, repeats, block-aligned copies, generated blocks, salts and streams: enough to evict from a small pool. */
const bodies: readonly object[] = [
  completion(tokens(1, 100)),
  completion([...tokens(1, 70), ...tokens(2, 40)]),
  completion(tokens(1, 64)),
  completion(tokens(1, 64)),
  completion(tokens(1, 65)),
  completion(tokens(3, 10), { max_tokens: 40 }),
  completion(tokens(1, 100), { cache_salt: "s1" }),
  completion(tokens(1, 100), { cache_salt: "s1" }),
  completion(tokens(1, 100), { stream: true, stream_options: { include_usage: true } }),
  completion(tokens(4, 400)),
  completion(tokens(5, 400)),
  completion([...tokens(1, 90), 7, 8, 9]),
  completion(tokens(1, 100)),
];

async function withSimulator<T>(options: SimulatorOptions, use: (simulator: Simulator) => Promise<T>): Promise<T> {
  const simulator = createSimulator({}, { speed: 20, numBlocks: 64, ...options });
  await simulator.start();
  try {
    return await use(simulator);
  } finally {
    await simulator.close();
  }
}

async function record(simulator: Simulator, lines: readonly object[], ...more: readonly string[]): Promise<string> {
  const name = join(scratch, Math.random().toString(36).slice(2));
  await writeFile(`${name}.bodies`, lines.map((line) => JSON.stringify(line)).join("\n"));
  const addresses = simulator.publishers.flatMap(({ eventsEndpoint, replayEndpoint }) => [
    `--events=${eventsEndpoint}`,
    ...(replayEndpoint === null ? [] : [`--replay=${replayEndpoint}`]),
  ]);
  const argv = [`--url=${simulator.url}`, ...addresses, `--send=${name}.bodies`, "--quiet-ms=60", ...more];
  const { code, stdout, stderr } = await runInProcess(recordCommand, argv);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  await writeFile(`${name}.jsonl`, stdout);
  return `${name}.jsonl`;
}

async function verify(path: string): Promise<Report> {
  const { stdout } = await runInProcess(verifyCommand, [path, "--json"]);
  return JSON.parse(stdout) as Report;
}

describe("recording an engine", () => {
  it.each<[string, SimulatorOptions, string]>([
    ["0.10.1", { hashAlgorithm: "sha256_cbor_64bit", seed: "42" }, "sha256_cbor_64bit"],
    ["0.11.2", { seed: "0" }, "sha256"],
    ["0.14", { hashAlgorithm: "sha256_cbor", seed: "0" }, "sha256_cbor"],
    ["0.18", { hashAlgorithm: "xxhash", seed: "42" }, "xxhash"],
    ["0.22", { bytesHashes: true, seed: "0" }, "sha256"],
    ["0.26", { hashAlgorithm: "xxhash_cbor", seed: "7" }, "xxhash_cbor"],
    ["0.29", {}, "sha256"],
    ["0.32", { blockSizeTokens: 32 }, "sha256"],
    ["0.33", { lookaheadTokens: 1 }, "sha256"],
  ])("%s with %j gives a recording of which all is equal", async (engineVersion, options, scheme) => {
    const report = await withSimulator({ engineVersion, ...options }, async (simulator) => {
      const seed = typeof options.seed === "string" ? [`--seed=${options.seed}`] : [];
      return verify(await record(simulator, bodies, ...seed));
    });
    expect(report).toMatchObject({ scheme, requestsChecked: bodies.length, hitsEqual: bodies.length, problems: [] });
    expect(report.keysChecked).toBeGreaterThan(30);
    expect(report.keysEqual).toBe(report.keysChecked);
    expect(report.skipped).toEqual({});
  });

  it("predicts the hits of an engine whose seed is random", async () => {
    const report = await withSimulator({ engineVersion: "0.25" }, async (simulator) => verify(await record(simulator, bodies)));
    expect(report).toMatchObject({
      scheme: "content",
      keysChecked: 0,
      requestsChecked: bodies.length,
      hitsEqual: bodies.length,
      problems: [],
    });
    expect(Object.keys(report.skipped)).toEqual(["keys: seed not known or random"]);
  });

  it.each(["0.12", "0.16", "0.22", "0.30", "0.32"])("%s: records adapters and data-parallel ranks", async (engineVersion) => {
    const options: SimulatorOptions = {
      engineVersion,
      dataParallelSize: 2,
      loraAdapters: [{ name: "law", path: "models/lora-a" }],
      seed: "0",
    };
    const toRank = (rank: number, body: object) => ({ path: "/v1/completions", headers: { "x-data-parallel-rank": String(rank) }, body });
    const lines = [0, 1].flatMap((rank) => [
      toRank(rank, completion(tokens(1, 100))),
      toRank(rank, completion(tokens(1, 100), { model: "law" })),
      toRank(rank, completion(tokens(1, 120), { model: "law" })),
      toRank(rank, completion(tokens(1, 120))),
    ]);
    const report = await withSimulator(options, async (simulator) => verify(await record(simulator, lines, "--seed=0")));
    expect(report).toMatchObject({ requestsChecked: 8, hitsEqual: 8, skipped: {}, problems: [] });
    expect(report.keysEqual).toBe(report.keysChecked);
  });

  it("leaves out the request between a reset and the next batch, which tells of it", async () => {
    const lines = [...bodies.slice(0, 3), { path: "/reset_prefix_cache", body: {} }, ...bodies.slice(0, 3)];
    const report = await withSimulator({ engineVersion: "0.22", seed: "0" }, async (simulator) =>
      verify(await record(simulator, lines, "--seed=0")),
    );
    const skipped = { "request: after a reset or sleep, before the next batch": 1 };
    expect(report).toMatchObject({ requestsChecked: 5, hitsEqual: 5, skipped, problems: [] });
  });

  it("replays what happened before it came", async () => {
    const report = await withSimulator({ seed: "0" }, async (simulator) => {
      await verify(await record(simulator, bodies.slice(0, 6), "--seed=0"));
      return verify(await record(simulator, bodies, "--seed=0"));
    });
    expect(report).toMatchObject({ requestsChecked: bodies.length, hitsEqual: bodies.length, skipped: {}, problems: [] });
  });

  it("records until it is told to stop, and ends with a note", async () => {
    await withSimulator({ topic: "kv@here@simulated" }, async (simulator) => {
      const stop = new AbortController();
      const argv = [`--url=${simulator.url}`, `--events=${simulator.eventsEndpoint}`, "--topic=kv@", "--metrics-interval-s=0.1"];
      const running = runInProcess(recordCommand, argv, { signal: stop.signal });
      // The first frame shows that the socket is there; until then requests go nowhere.
      let sent = 0;
      await eventually(async () => {
        await fetch(`${simulator.url}/v1/completions`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify(completion(tokens(++sent, 50))),
        });
        expect(sent).toBeGreaterThan(20);
      });
      stop.abort();
      const { code, stdout } = await running;
      const lines = stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line));
      expect(code).toBe(0);
      expect(lines.at(-1)).toMatchObject({ kind: "note", text: "recording ended by signal" });
      expect(lines.filter(({ kind }) => kind === "meta")).toMatchObject([
        { engine: "e0", model: "simulated", block_size: 16, algo: "sha256", seed: null },
      ]);
      const live = lines.filter(({ kind }) => kind === "frame");
      expect(live.length).toBeGreaterThan(0);
      expect(live[0]).toMatchObject({
        endpoint: "live",
        publisher: "e0",
        frames: [Buffer.from("kv@here@simulated").toString("hex"), expect.any(String), expect.any(String)],
      });
      expect(lines.filter(({ kind, path }) => kind === "http" && path === "/metrics").length).toBeGreaterThan(1);
    });
  });

  it("says what is wrong before it begins", async () => {
    const run = (...argv: string[]) => runInProcess(recordCommand, argv);
    expect(await run("--url=nowhere", "--events=tcp://127.0.0.1:1")).toMatchObject({ code: 2, stdout: "" });
    expect(await run("--url=http://127.0.0.1:1")).toMatchObject({ code: 2, stderr: expect.stringContaining("--events is required") });
    expect(await run("--url=http://127.0.0.1:1", "--events=tcp://127.0.0.1:1")).toMatchObject({ code: 1, stdout: "" });
    const broken = join(scratch, "broken.bodies");
    await writeFile(broken, '{"prompt": [1]}\n{"x": 1}\n');
    const refused = await run("--url=http://127.0.0.1:1", "--events=tcp://127.0.0.1:1", `--send=${broken}`);
    expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining('broken.bodies, line 2: no "body"') });
  });
});
