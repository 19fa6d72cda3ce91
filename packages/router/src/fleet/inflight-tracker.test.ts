import { FakeClock } from "@kvatlas/shared/clock";
import { silentLogger } from "@kvatlas/shared/logger";
import type { EndpointId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { InflightTracker } from "./inflight-tracker.ts";

const endpoint = "a:1" as EndpointId;
const tracker = () =>
  new InflightTracker({ registry: { setInflight: async () => {} }, clock: new FakeClock(), logger: silentLogger }, { routerId: "me" });

describe("InflightTracker", () => {
  it("moves a request from prefill to decode, and out", () => {
    const inflight = tracker();
    const entry = inflight.begin(endpoint, 100, 400);
    const other = inflight.begin(endpoint, 50, 50);
    expect(inflight.local(endpoint)).toEqual({ requests: 2, prefillTokens: 150, decodeTokens: 0 });
    entry.firstByte();
    entry.firstByte();
    entry.produced(3);
    expect(inflight.local(endpoint)).toEqual({ requests: 2, prefillTokens: 50, decodeTokens: 403 });
    entry.end();
    entry.end();
    entry.produced(5);
    expect(inflight.local(endpoint)).toEqual({ requests: 1, prefillTokens: 50, decodeTokens: 0 });
    other.end();
    expect(inflight.local(endpoint)).toEqual({ requests: 0, prefillTokens: 0, decodeTokens: 0 });
  });

  it("is back at nothing after any mixture of endings", () => {
    const inflight = tracker();
    const entries = Array.from({ length: 100 }, (_, i) => inflight.begin(endpoint, i, 2 * i));
    for (const [i, entry] of entries.entries()) {
      if (i % 2 === 0) entry.firstByte();
      if (i % 3 === 0) entry.produced(i);
    }
    for (const entry of entries.reverse()) entry.end();
    expect(inflight.local(endpoint)).toEqual({ requests: 0, prefillTokens: 0, decodeTokens: 0 });
  });
});
