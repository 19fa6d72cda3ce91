import { describe, expect, it } from "vitest";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import { acceptableRequestId, clientResponseHeaders, HeaderVerdicts, upstreamRequestHeaders } from "./headers.ts";

const asTheyAre = { dropClients: false, apiKey: null };
const verdicts = new HeaderVerdicts();
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
      "x-gateway-destination-endpoint",
      "10.0.0.1:8000",
    ];
    expect(upstreamRequestHeaders(verdicts, raw, "id", endpoint(0, false), asTheyAre)).toEqual([
      "X-A",
      "1",
      "x-a",
      "2",
      "x-request-id",
      "id",
    ]);
  });

  it("names the rank only where there are several", () => {
    const raw = ["X-data-parallel-rank", "7"];
    expect(upstreamRequestHeaders(verdicts, raw, "id", endpoint(0, false), asTheyAre)).toEqual([
      "X-data-parallel-rank",
      "7",
      "x-request-id",
      "id",
    ]);
    expect(upstreamRequestHeaders(verdicts, raw, "id", endpoint(2, true), asTheyAre)).toEqual([
      "x-request-id",
      "id",
      "X-data-parallel-rank",
      "2",
    ]);
  });
});

describe("credentials", () => {
  const raw = ["Authorization", "Bearer client", "X-Api-Key", "client", "traceparent", "00-a-b-01"];
  const trace = ["traceparent", "00-a-b-01", "x-request-id", "id"];

  it("pass where this router asks for none and has none", () => {
    expect(upstreamRequestHeaders(verdicts, raw, "id", endpoint(0, false), asTheyAre)).toEqual([...raw, "x-request-id", "id"]);
  });

  it("stay here when they are meant for this router", () => {
    expect(upstreamRequestHeaders(verdicts, raw, "id", endpoint(0, false), { dropClients: true, apiKey: null })).toEqual(trace);
  });

  it("give way to the key of the replicas", () => {
    const headers = upstreamRequestHeaders(verdicts, raw, "id", endpoint(0, false), { dropClients: false, apiKey: "own" });
    expect(headers).toEqual([...trace, "authorization", "Bearer own"]);
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
    expect(clientResponseHeaders(verdicts, raw, ["x-kvatlas-mode", "precise"])).toEqual([
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

describe("the length of an answer", () => {
  const raw = ["Content-Length", "5", "content-type", "a/b"].map((text) => Buffer.from(text));

  it("is the replica's, unless the body changes on the way", () => {
    expect(clientResponseHeaders(verdicts, raw, [])).toEqual(["Content-Length", "5", "content-type", "a/b"]);
    expect(clientResponseHeaders(verdicts, raw, [], true)).toEqual(["content-type", "a/b"]);
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
