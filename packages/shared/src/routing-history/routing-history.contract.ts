import { describe, expect, it } from "vitest";
import type { BlockKey, EndpointId, ScopeId } from "../types.ts";
import type { RoutedChain, RoutingHistory } from "./routing-history.ts";

const scope = "scope" as ScopeId;
const a = "10.0.0.1:8000" as EndpointId;
const b = "10.0.0.2:8000/1" as EndpointId;
const key = (n: number): BlockKey => `1000${n.toString(16).padStart(12, "0")}` as BlockKey;
const chainOf = (from: number, to: number): RoutedChain => ({
  scope,
  keys: Array.from({ length: to - from }, (_, i) => key(from + i)),
});
const plain = (found: readonly ReadonlyMap<EndpointId, unknown>[]) => found.map((matches) => Object.fromEntries(matches));
const minute = 60_000;

/** What every implementation does; `create` gives an empty one. */
export function routingHistoryContract(create: () => Promise<RoutingHistory>): void {
  describe("a routing history", () => {
    it.each([1, 2, 3, 100, 513, 1_300])("finds how far each endpoint was sent a chain of %i keys", async (length) => {
      const history = await create();
      const half = Math.ceil(length / 2);
      await history.record([{ chain: chainOf(0, length), endpoint: a, at: 1_000 }], minute);
      await history.record([{ chain: chainOf(0, half), endpoint: b, at: 2_000 }], minute);
      const expected = { [a]: { position: length - 1, at: 1_000 }, [b]: { position: half - 1, at: 2_000 } };
      for (const form of ["whole", "sparse"] as const) {
        expect(plain(await history.lookup([chainOf(0, length), chainOf(5_000, 5_003)], { sinceMs: 0, form }))).toEqual([expected, {}]);
      }
    });

    it("finds marks in the middle of a chain when all keys are read", async () => {
      const history = await create();
      const { keys } = chainOf(0, 40);
      await history.record([{ chain: { scope, keys: keys.slice(20, 30) }, endpoint: a, at: 5 }], minute);
      // What lies in a shard is decided by the first key.
      const found = await history.lookup([{ scope, keys: keys.slice(20) }], { sinceMs: 0, form: "sparse" });
      expect(plain(found)).toEqual([{ [a]: { position: 9, at: 5 } }]);
    });

    it("finds the last mark of every endpoint where only some keys after the first are marked", async () => {
      const history = await create();
      const { keys } = chainOf(0, 40);
      const some = (...positions: number[]): RoutedChain => ({ scope, keys: keys.filter((_, i) => positions.includes(i)) });
      await history.record([{ chain: some(0, 1, 2, 3), endpoint: a, at: 7 }], minute);
      await history.record([{ chain: some(0, 20, 30), endpoint: b, at: 8 }], minute);
      const expected = { [a]: { position: 3, at: 7 }, [b]: { position: 30, at: 8 } };
      expect(plain(await history.lookup([{ scope, keys }], { sinceMs: 0, form: "sparse" }))).toEqual([expected]);
    });

    it("keeps the latest moment and leaves out what is too old", async () => {
      const history = await create();
      const chain = chainOf(0, 5);
      await history.record([{ chain, endpoint: a, at: 3_000 }], minute);
      await history.record([{ chain, endpoint: a, at: 1_000 }], minute);
      expect(plain(await history.lookup([chain], { sinceMs: 3_000, form: "whole" }))).toEqual([{ [a]: { position: 4, at: 3_000 } }]);
      expect(plain(await history.lookup([chain], { sinceMs: 3_001, form: "whole" }))).toEqual([{}]);
    });

    it("takes a routing back unless a later one has replaced it", async () => {
      const history = await create();
      const chain = chainOf(0, 3);
      await history.record([{ chain, endpoint: a, at: 1 }], minute);
      await history.record([{ chain: chainOf(0, 2), endpoint: a, at: 2 }], minute);
      await history.withdraw([{ chain, endpoint: a, at: 1 }]);
      expect(plain(await history.lookup([chain], { sinceMs: 0, form: "whole" }))).toEqual([{ [a]: { position: 1, at: 2 } }]);
    });

    it("keeps scopes apart", async () => {
      const history = await create();
      const chain = chainOf(0, 3);
      await history.record([{ chain, endpoint: a, at: 1 }], minute);
      expect(plain(await history.lookup([{ ...chain, scope: "other" as ScopeId }], { sinceMs: 0, form: "whole" }))).toEqual([{}]);
    });

    it("has no answer for a chain without keys", async () => {
      const history = await create();
      await history.record([{ chain: { scope, keys: [] }, endpoint: a, at: 1 }], minute);
      expect(plain(await history.lookup([{ scope, keys: [] }], { sinceMs: 0, form: "whole" }))).toEqual([{}]);
    });
  });
}
