import { FakeClock, type Timers } from "@kvatlas/shared/clock";
import { silentLogger } from "@kvatlas/shared/logger";
import type { Inflight } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { InflightTracker } from "./inflight-tracker.ts";

const endpoint = "a:1" as EndpointId;
const other = "b:1" as EndpointId;
const tracker = () =>
  new InflightTracker(
    { registry: { setInflight: async () => {}, changeInflight: async () => {} }, clock: new FakeClock(), logger: silentLogger },
    { routerId: "me" },
  );

describe("InflightTracker", () => {
  it("moves a request from prefill to decode, and out", () => {
    const inflight = tracker();
    const entry = inflight.begin(endpoint, 100, 400);
    const second = inflight.begin(endpoint, 50, 50);
    expect(inflight.local(endpoint)).toEqual({ requests: 2, prefillTokens: 150, decodeTokens: 0 });
    entry.firstByte();
    entry.firstByte();
    entry.produced(3);
    expect(inflight.local(endpoint)).toEqual({ requests: 2, prefillTokens: 50, decodeTokens: 403 });
    entry.end();
    entry.end();
    entry.produced(5);
    expect(inflight.local(endpoint)).toEqual({ requests: 1, prefillTokens: 50, decodeTokens: 0 });
    second.end();
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

/** Time that passes by hand, and a store that keeps what it is told. */
class Bench {
  readonly clock = new FakeClock(0);
  readonly published: { readonly how: "whole" | "changed"; readonly of: Readonly<Record<string, Inflight>> }[] = [];
  refuses = false;
  #waiting: { readonly at: number; readonly run: () => void }[] = [];

  readonly timers: Timers = {
    after: (delayMs, run) => {
      const entry = { at: this.clock.now() + delayMs, run };
      this.#waiting.push(entry);
      return () => {
        this.#waiting = this.#waiting.filter((waiting) => waiting !== entry);
      };
    },
  };

  async tracker(hasReaders: boolean): Promise<InflightTracker> {
    const told = (how: "whole" | "changed") => async (_: string, inflight: ReadonlyMap<EndpointId, Inflight>) => {
      if (this.refuses) throw new Error("refused");
      this.published.push({ how, of: Object.fromEntries(inflight) });
    };
    const { clock, timers } = this;
    const made = new InflightTracker(
      {
        registry: { setInflight: told("whole"), changeInflight: told("changed") },
        clock,
        timers,
        logger: silentLogger,
        atTurnEnd: (run) => void timers.after(0, run),
        hasReaders: () => hasReaders,
      },
      { routerId: "me" },
    );
    await made.start();
    return made;
  }

  async pass(ms: number): Promise<void> {
    for (let i = 0; i <= ms; i++) {
      if (i > 0) this.clock.advance(1);
      for (const entry of this.#waiting.filter(({ at }) => at <= this.clock.now())) {
        this.#waiting = this.#waiting.filter((waiting) => waiting !== entry);
        entry.run();
      }
      // The store answers.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

describe("publication of work under way", () => {
  it("comes at once with each request that is sent, and tells of the others since", async () => {
    const bench = new Bench();
    const inflight = await bench.tracker(true);
    const first = inflight.begin(endpoint, 100, 100);
    await bench.pass(0);
    expect(bench.published).toEqual([{ how: "changed", of: { "a:1": { requests: 1, prefillTokens: 100, decodeTokens: 0 } } }]);
    first.firstByte();
    await bench.pass(5);
    expect(bench.published).toHaveLength(1);
    inflight.begin(other, 40, 50);
    inflight.begin(other, 1, 1);
    await bench.pass(0);
    expect(bench.published.slice(1)).toEqual([
      {
        how: "changed",
        of: { "a:1": { requests: 1, prefillTokens: 0, decodeTokens: 100 }, "b:1": { requests: 2, prefillTokens: 41, decodeTokens: 0 } },
      },
    ]);
    await inflight.close();
    expect(bench.published.slice(2)).toEqual([{ how: "whole", of: {} }]);
  });

  it("waits a little for another request with first bytes and ends", async () => {
    const bench = new Bench();
    const inflight = await bench.tracker(true);
    const entry = inflight.begin(endpoint, 100, 100);
    await bench.pass(0);
    entry.firstByte();
    await bench.pass(9);
    entry.end();
    expect(bench.published).toHaveLength(1);
    await bench.pass(1);
    expect(bench.published.slice(1)).toEqual([{ how: "changed", of: { "a:1": { requests: 0, prefillTokens: 0, decodeTokens: 0 } } }]);
    await bench.pass(100);
    expect(bench.published).toHaveLength(2);
  });

  it("is left to the next look while answers grow, and where nobody reads", async () => {
    const bench = new Bench();
    const inflight = await bench.tracker(true);
    const entry = inflight.begin(endpoint, 100, 100);
    entry.firstByte();
    await bench.pass(20);
    expect(bench.published).toHaveLength(1);
    entry.produced(5);
    await bench.pass(20);
    expect(bench.published).toHaveLength(1);
    await bench.pass(110);
    expect(bench.published.slice(1)).toEqual([{ how: "whole", of: { "a:1": { requests: 1, prefillTokens: 0, decodeTokens: 105 } } }]);

    const alone = new Bench();
    const unread = await alone.tracker(false);
    unread.begin(endpoint, 100, 100).firstByte();
    await alone.pass(149);
    expect(alone.published).toEqual([]);
    await alone.pass(1);
    expect(alone.published).toHaveLength(1);
  });

  it("is not tried again with each request while it fails, and is caught up on", async () => {
    const bench = new Bench();
    const inflight = await bench.tracker(true);
    bench.refuses = true;
    inflight.begin(endpoint, 1, 1);
    await bench.pass(0);
    bench.refuses = false;
    inflight.begin(endpoint, 1, 1);
    await bench.pass(100);
    expect(bench.published).toEqual([]);
    await bench.pass(50);
    expect(bench.published).toEqual([{ how: "whole", of: { "a:1": { requests: 2, prefillTokens: 2, decodeTokens: 0 } } }]);
    inflight.begin(endpoint, 1, 1);
    await bench.pass(0);
    expect(bench.published).toHaveLength(2);
  });

  it("is whole now and then, before it expires", async () => {
    const bench = new Bench();
    const inflight = await bench.tracker(true);
    inflight.begin(endpoint, 1, 1);
    await bench.pass(3_000);
    expect(bench.published.map(({ how }) => how)).toEqual(["changed", "whole", "whole"]);
    await inflight.close();
  });
});
