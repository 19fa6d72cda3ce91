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

it("forgets those that were routed longest ago when there are too many", () => {
  const history = new MemoryRoutingHistory({ maxKeys: 4 });
  const chains = [1, 2, 3, 4, 5, 6].map((n) => ({ ...chain, keys: [`000000000000000${n}` as BlockKey] }));
  const [first] = chains;
  for (const [i, each] of chains.entries()) {
    history.recordNow([{ chain: each, endpoint, at: 0 }], 10_000);
    if (i === 3 && first !== undefined) history.recordNow([{ chain: first, endpoint, at: 0 }], 10_000);
  }
  const found = history.lookupNow(chains, { sinceMs: 0, form: "whole" }).map((matches) => matches.size);
  expect(found).toEqual([1, 0, 0, 0, 1, 1]);
});
