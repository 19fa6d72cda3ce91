import { describe, expect, it } from "vitest";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import { acceptableRequestId, clientResponseHeaders, upstreamRequestHeaders } from "./headers.ts";

const endpoint = (rank: number, ranked: boolean) => ({ rank, ranked }) as FleetEndpoint;

describe("upstreamRequestHeaders", () => {
  it("keeps spelling, order and repetitions, and drops what belongs to the connection", () => {
    const raw = [
      "Host",
      "a",
      "X-A",
      "1",
      "x-a",
      "2",
      "Connection",
      "close, X-Drop",
      "X-Drop",
      "3",
      "Transfer-Encoding",
      "chunked",
      "X-Kvatlas-Mode",
      "off",
    ];
    expect(upstreamRequestHeaders(raw, "id", endpoint(0, false))).toEqual(["X-A", "1", "x-a", "2", "x-request-id", "id"]);
  });

  it("names the rank only where there are several", () => {
    const raw = ["X-data-parallel-rank", "7"];
    expect(upstreamRequestHeaders(raw, "id", endpoint(0, false))).toEqual(["X-data-parallel-rank", "7", "x-request-id", "id"]);
    expect(upstreamRequestHeaders(raw, "id", endpoint(2, true))).toEqual(["x-request-id", "id", "X-data-parallel-rank", "2"]);
  });
});

describe("clientResponseHeaders", () => {
  it("adds ours and lets no replica speak for us", () => {
    const raw = [
      "Content-Type",
      "a/b",
      "Keep-Alive",
      "timeout=5",
      "X-Kvatlas-Endpoint",
      "spoofed",
      "Set-Cookie",
      "a",
      "Set-Cookie",
      "b",
    ].map((text) => Buffer.from(text));
    expect(clientResponseHeaders(raw, ["x-kvatlas-mode", "precise"])).toEqual([
      "Content-Type",
      "a/b",
      "Set-Cookie",
      "a",
      "Set-Cookie",
      "b",
      "x-kvatlas-mode",
      "precise",
    ]);
  });
});

describe("acceptableRequestId", () => {
  it.each([
    ["abc-1", "abc-1"],
    ["", null],
    ["has space", null],
    ["x".repeat(129), null],
    ["ünïcode", null],
    [undefined, null],
    [["a", "b"], null],
  ])("%j -> %j", (value, expected) => {
    expect(acceptableRequestId(value)).toBe(expected);
  });
});
