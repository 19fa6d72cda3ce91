import { expect, it } from "vitest";
import type { Clock } from "../clock.ts";
import type { BlockKey, EndpointId, ScopeId } from "../types.ts";
import { MemoryRoutingHistory } from "./memory-routing-history.ts";
import { routingHistoryContract } from "./routing-history.contract.ts";

routingHistoryContract(async () => new MemoryRoutingHistory());

const chain = { scope: "s" as ScopeId, keys: ["0000000000000001" as BlockKey] };
const endpoint = "a:1" as EndpointId;

it("forgets keys that nobody was sent for their time to live", () => {
  let now = 0;
  const clock: Clock = { now: () => now, monotonic: () => now };
  const history = new MemoryRoutingHistory({ clock });
  history.recordNow([{ chain, endpoint, at: 0 }], 10);
  now = 10;
  expect(history.lookupNow([chain], { sinceMs: 0, form: "whole" })[0]?.size).toBe(0);
});

it("is bounded", () => {
  const history = new MemoryRoutingHistory({ maxKeys: 1 });
  history.recordNow([{ chain, endpoint, at: 0 }], 10_000);
  history.recordNow([{ chain: { ...chain, keys: ["0000000000000002" as BlockKey] }, endpoint, at: 0 }], 10_000);
  expect(history.lookupNow([chain], { sinceMs: 0, form: "whole" })[0]?.size).toBe(0);
});
