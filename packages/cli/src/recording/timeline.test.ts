import { describe, expect, it } from "vitest";
import type { EngineRun, Exchange } from "./engine-run.ts";
import { isObserved, overlapping, resetsOf } from "./timeline.ts";

function exchange(id: string, sentMs: number, answeredMs: number | null, concurrent: string | null = null): Exchange {
  const request = {
    kind: "request",
    line: 1,
    atMs: sentMs,
    id,
    engine: "e0",
    path: "/v1/completions",
    body: {},
    bodyText: "{}",
    headers: {},
  } as const;
  const response = { kind: "response", line: 2, id, status: 200, body: null, sse: null } as const;
  return { request: { ...request, concurrent }, response: answeredMs === null ? null : { ...response, atMs: answeredMs } };
}

const run = (more: Partial<EngineRun>): EngineRun => ({
  engine: "e0",
  meta: null,
  streams: new Map(),
  exchanges: [],
  hasStart: true,
  http: [],
  subscription: [],
  replays: [],
  ...more,
});

describe("overlapping", () => {
  const ids = (exchanges: readonly Exchange[]): string[] => [...overlapping(exchanges)].map(({ request }) => request.id).sort();

  it("leaves requests alone that follow each other", () => {
    expect(ids([exchange("a", 0, 10), exchange("b", 10, 20), exchange("c", 25, 30)])).toEqual([]);
  });

  it("finds those whose times overlap, also across a short one between them", () => {
    expect(ids([exchange("a", 0, 100), exchange("b", 10, 20), exchange("c", 90, 110), exchange("d", 120, 130)])).toEqual(["a", "b", "c"]);
  });

  it("believes the note, and takes a request without an answer for one that never ended", () => {
    expect(ids([exchange("a", 0, 10, "group"), exchange("b", 20, null), exchange("c", 90, 110)])).toEqual(["a", "b", "c"]);
  });
});

describe("resetsOf", () => {
  it("counts calls that the engine carried out", () => {
    const call = (atMs: number, path: string, status: number, body: unknown) =>
      ({ kind: "http", line: 1, atMs, engine: "e0", method: "POST", path, status, request: null, requestText: null, body }) as const;
    const http = [
      call(1, "/reset_prefix_cache", 200, ""),
      call(2, "/reset_prefix_cache?reset_external=true", 200, { success: true }),
      call(3, "/reset_prefix_cache", 200, { success: false }),
      call(4, "/sleep?level=1", 200, null),
      call(5, "/sleep", 404, null),
      call(6, "/wake_up", 200, null),
    ];
    expect(resetsOf(run({ http }))).toEqual([1, 2, 4]);
  });
});

describe("isObserved", () => {
  const end = { nextSeq: 5, lastMs: 100, hasLiveFrames: true };
  const up = (atMs: number) => ({ atMs, isUp: true });
  const down = (atMs: number) => ({ atMs, isUp: false });

  it.each([
    ["nobody says otherwise", run({}), true],
    ["the socket was there all the time", run({ subscription: [up(10)] }), true],
    ["the socket went away", run({ subscription: [up(10), down(150)] }), false],
    ["the socket was away and came back too late", run({ subscription: [up(10), down(90), up(150)] }), false],
    ["a replay came afterwards", run({ subscription: [up(10), down(150)], replays: [{ start: 3, atMs: 300 }] }), true],
    ["a replay asked for later batches only", run({ subscription: [up(10), down(150)], replays: [{ start: 6, atMs: 300 }] }), false],
    ["a replay ended before", run({ subscription: [up(10), down(150)], replays: [{ start: 0, atMs: 160 }] }), false],
  ])("%s", (_, engine, expected) => {
    expect(isObserved(engine, end, 200)).toBe(expected);
  });

  it("needs a socket before the first batch, too", () => {
    const start = { nextSeq: 0, lastMs: Number.NEGATIVE_INFINITY, hasLiveFrames: false };
    expect(isObserved(run({ subscription: [up(10)] }), start, 20)).toBe(true);
    expect(isObserved(run({ subscription: [up(30)] }), start, 20)).toBe(false);
    expect(isObserved(run({}), start, 20)).toBe(false);
  });
});
