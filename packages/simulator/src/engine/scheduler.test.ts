import { describe, expect, it } from "vitest";
import { Scheduler, type SchedulerOptions } from "./scheduler.ts";
import type { Sequence, SequenceSpec } from "./sequence.ts";

function createScheduler(options: Partial<SchedulerOptions> = {}): Scheduler {
  return new Scheduler({
    blockSizeTokens: 4,
    numBlocks: 101,
    maxNumSeqs: 8,
    maxNumBatchedTokens: 64,
    unhashedFreedFirst: true,
    reservesWholePrompt: true,
    lookaheadTokens: 0,
    enablePrefixCaching: true,
    hostBlocks: 0,
    ...options,
  });
}

/** A sequence over the tokens start, start+1, ...; its hashes are readable prefixes: the same start gives the same blocks. */
function spec(start: number, promptTokens: number, answerTokens: number, change: Partial<SequenceSpec> = {}): SequenceSpec {
  const tokenIds = Uint32Array.from({ length: promptTokens + answerTokens }, (_, i) => start + i);
  return {
    id: `${start}`,
    tokenIds,
    promptTokens,
    finishReason: "length",
    hashes: Array.from({ length: Math.floor(tokenIds.length / 4) }, (_, i) => `${start}.${i}`),
    lora: null,
    cacheSalt: null,
    sessionId: null,
    skipsCacheLookup: false,
    reportsReusedBlocks: false,
    ...change,
  };
}

/** Steps until nothing is left to do; the events of each step as text. */
function drain(scheduler: Scheduler): string[] {
  const batches: string[] = [];
  for (let plan = scheduler.schedule(); plan !== null; plan = scheduler.schedule()) {
    scheduler.complete(plan);
    const events = scheduler.takeEvents();
    if (events.length === 0) continue;
    batches.push(
      events
        .map((event) =>
          event.kind === "stored"
            ? `+${event.parent ?? "root"}>${event.hashes.join(",")}`
            : event.kind === "removed"
              ? `-${event.hash}`
              : "cleared",
        )
        .join(" "),
    );
  }
  return batches;
}

function step(scheduler: Scheduler): readonly Sequence[] {
  const plan = scheduler.schedule();
  return plan === null ? [] : scheduler.complete(plan);
}

describe("Scheduler", () => {
  it("stores a prompt's full blocks at once and generated ones when their last token is computed", () => {
    const scheduler = createScheduler();
    const sequence = scheduler.add(spec(0, 6, 7));
    // 13 tokens, of which the last is sampled but never computed: three blocks.
    expect(drain(scheduler)).toEqual(["+root>0.0", "+0.0>0.1", "+0.1>0.2"]);
    expect([sequence.status, sequence.generated, scheduler.pool.usage]).toEqual(["finished", 7, 0]);
  });

  it("hits at most floor((n-1)/B) blocks: an aligned prompt stores its last block again", () => {
    const scheduler = createScheduler();
    scheduler.add(spec(0, 8, 1));
    drain(scheduler);
    const again = scheduler.add(spec(0, 8, 1));
    expect(drain(scheduler)).toEqual(["+0.0>0.1"]);
    expect(again.cachedTokens).toBe(4);
    expect(scheduler.pool.copies().get("0.1")).toBe(2);
    expect(scheduler.counters).toEqual({ preemptions: 0, queriedTokens: 16, hitTokens: 4, hostHitTokens: 0, receivedTokens: 0 });
  });

  it("prefills in chunks of the token budget, one store per chunk", () => {
    const scheduler = createScheduler({ maxNumBatchedTokens: 10 });
    scheduler.add(spec(0, 24, 1));
    expect(drain(scheduler)).toEqual(["+root>0.0,0.1", "+0.1>0.2,0.3,0.4", "+0.4>0.5"]);
  });

  it("batches: running requests first, then waiting ones while budget and seats last", () => {
    const scheduler = createScheduler({ maxNumBatchedTokens: 20, maxNumSeqs: 2 });
    const [a, b, c] = [spec(0, 8, 3), spec(100, 30, 2), spec(200, 4, 1)].map((one) => scheduler.add(one));
    const first = scheduler.schedule();
    expect(first).toMatchObject({ prefillTokens: 20, decodeSequences: 0 });
    expect(first?.work.map(({ sequence, tokens }) => [sequence.spec.id, tokens])).toEqual([
      ["0", 8],
      ["100", 12],
    ]);
    expect(first && scheduler.complete(first)).toEqual([a]);
    const second = scheduler.schedule();
    expect(second).toMatchObject({ prefillTokens: 18, decodeSequences: 1 });
    if (second !== null) scheduler.complete(second);
    expect(c?.status).toBe("waiting");
    drain(scheduler);
    expect([a, b, c].map((sequence) => sequence?.status)).toEqual(["finished", "finished", "finished"]);
  });

  it("lets a request wait until all of its prompt fits", () => {
    const options = { numBlocks: 11, maxNumBatchedTokens: 8 };
    const whole = createScheduler(options);
    whole.add(spec(0, 20, 5));
    const late = whole.add(spec(100, 24, 1));
    for (let i = 0; i < 4; i += 1) step(whole);
    expect(late.status).toBe("waiting");
    drain(whole);
    expect([late.status, whole.counters.preemptions]).toEqual(["finished", 0]);

    const chunked = createScheduler({ ...options, reservesWholePrompt: false });
    chunked.add(spec(0, 20, 5));
    const early = chunked.add(spec(100, 24, 1));
    for (let i = 0; i < 4; i += 1) step(chunked);
    expect(early.status).toBe("running");
    drain(chunked);
    expect(early.status).toBe("finished");
  });

  it("preempts the last request when blocks run out, which then finds its own blocks again", () => {
    const scheduler = createScheduler({ numBlocks: 9 });
    const a = scheduler.add(spec(0, 12, 12));
    const b = scheduler.add(spec(100, 12, 12));
    const batches = drain(scheduler);
    expect([a.preemptions, b.preemptions]).toEqual([0, 1]);
    expect([a.status, b.status]).toEqual(["finished", "finished"]);
    expect([a.generated, b.generated]).toEqual([12, 12]);
    expect(batches.join(" ")).toContain("-");
    // Its hit is that of its first admission.
    expect(b.cachedTokens).toBe(0);
    expect(scheduler.pool.usage).toBe(0);
  });

  it("emits evictions before the stores that caused them", () => {
    const scheduler = createScheduler({ numBlocks: 4 });
    scheduler.add(spec(0, 8, 1));
    scheduler.add(spec(100, 8, 1));
    // Blocks without a hash are taken first: the first request leaves one behind.
    expect(drain(scheduler)).toEqual(["+root>0.0,0.1", "-0.1 +root>100.0,100.1"]);
  });

  it("frees blocks on abort and keeps them cached", () => {
    const scheduler = createScheduler();
    const running = scheduler.add(spec(0, 8, 100));
    step(scheduler);
    const waiting = scheduler.add(spec(100, 8, 1));
    expect([scheduler.abort(running), scheduler.abort(waiting), scheduler.abort(running)]).toEqual([true, true, false]);
    expect([scheduler.pool.usage, scheduler.running.length, scheduler.waiting.length]).toEqual([0, 0, 0]);
    expect(scheduler.add(spec(0, 9, 1)).cachedTokens).toBe(-1);
    step(scheduler);
    expect(scheduler.counters.hitTokens).toBe(8);
  });

  it("ignores an abort's effect on a step in flight", () => {
    const scheduler = createScheduler();
    const sequence = scheduler.add(spec(0, 8, 3));
    const plan = scheduler.schedule();
    scheduler.abort(sequence);
    expect(plan && scheduler.complete(plan)).toEqual([]);
    expect(sequence.generated).toBe(0);
  });

  it("resets only when idle, and tells with the next step", () => {
    const scheduler = createScheduler();
    const sequence = scheduler.add(spec(0, 8, 5));
    step(scheduler);
    expect(scheduler.reset()).toBe(false);
    scheduler.abort(sequence);
    scheduler.takeEvents();
    expect(scheduler.reset()).toBe(true);
    expect(scheduler.schedule()).toBeNull();
    expect(scheduler.pendingEvents).toBe(1);
    scheduler.add(spec(0, 8, 1));
    expect(drain(scheduler)).toEqual(["cleared +root>0.0,0.1"]);
  });

  it("carries extras by block, and skips the cache where asked to", () => {
    const scheduler = createScheduler();
    scheduler.add(spec(0, 8, 1, { lora: { id: 1, name: "law" }, cacheSalt: "s", sessionId: "x" }));
    step(scheduler);
    expect(scheduler.takeEvents()).toMatchObject([{ extraKeys: [["law", "s"], ["law"]], lora: { id: 1, name: "law" }, sessionId: "x" }]);
    const sequence = scheduler.add(spec(0, 9, 1, { skipsCacheLookup: true }));
    drain(scheduler);
    expect(sequence.cachedTokens).toBe(0);
  });

  it("reports reused blocks when a request asks for it", () => {
    const scheduler = createScheduler();
    scheduler.add(spec(0, 12, 1));
    drain(scheduler);
    scheduler.add(spec(0, 13, 1, { reportsReusedBlocks: true }));
    expect(drain(scheduler)).toEqual(["+root>0.0,0.1,0.2"]);
  });

  it("with lookahead, caches a block once the tokens after it are known", () => {
    const scheduler = createScheduler({ lookaheadTokens: 1 });
    scheduler.add(spec(0, 8, 3));
    const plan = scheduler.schedule();
    expect(scheduler.takeEvents()).toMatchObject([{ hashes: ["0.0"], lookahead: [[4]] }]);
    if (plan !== null) scheduler.complete(plan);
    scheduler.schedule();
    expect(scheduler.takeEvents()).toMatchObject([{ hashes: ["0.1"], lookahead: [[8]] }]);
  });

  it("copies computed blocks to host memory and loads from there what the GPU has lost", () => {
    const scheduler = createScheduler({ numBlocks: 6, hostBlocks: 6 });
    const run = (start: number): Sequence => {
      const sequence = scheduler.add(spec(start, 17, 1));
      while (sequence.status !== "finished") step(scheduler);
      return sequence;
    };
    run(0);
    expect(scheduler.takeEvents()).toMatchObject([{ kind: "stored" }, { kind: "host-stored", hashes: ["0.0", "0.1", "0.2", "0.3"] }]);
    run(100);
    expect(scheduler.takeEvents().map((event) => event.kind)).toEqual([
      "removed",
      "removed",
      "removed",
      "removed",
      "stored",
      "host-removed",
      "host-stored",
    ]);
    // 100.* and the last two blocks of the first request are left, but a prefix without its beginning is no hit.
    expect(run(0).cachedTokens).toBe(0);
    scheduler.takeEvents();
    const roomy = createScheduler({ numBlocks: 6, hostBlocks: 100 });
    const sequences = [0, 100, 0].map((start) => {
      const sequence = roomy.add(spec(start, 17, 1));
      const plan = roomy.schedule();
      if (plan !== null) roomy.complete(plan);
      return [sequence.cachedTokens, plan?.prefillTokens, plan?.loadedTokens];
    });
    expect(sequences).toEqual([
      [0, 17, 0],
      [0, 17, 0],
      [16, 1, 16],
    ]);
    expect(roomy.counters).toMatchObject({ hitTokens: 0, hostHitTokens: 16 });
    // What was loaded is in the GPU pool again, and already in host memory.
    const events = roomy.takeEvents();
    expect(events.findLast((event) => event.kind === "stored")).toMatchObject({ hashes: ["0.0", "0.1", "0.2", "0.3"] });
    expect(events.filter((event) => event.kind === "host-stored")).toHaveLength(2);
  });

  it("neither stores nor hits without prefix caching", () => {
    const scheduler = createScheduler({ enablePrefixCaching: false });
    scheduler.add(spec(0, 8, 1));
    scheduler.add(spec(0, 8, 1));
    expect(drain(scheduler)).toEqual([]);
    expect(scheduler.counters.hitTokens).toBe(0);
  });

  it("computes only the last token of a prompt whose KV came from another engine, and stores its blocks as its own", () => {
    const scheduler = createScheduler();
    const sequence = scheduler.add(spec(0, 16, 3, { receivedTokens: 16 }));
    const plan = scheduler.schedule();
    expect(plan?.prefillTokens).toBe(1);
    expect(sequence.cachedTokens).toBe(15);
    expect(scheduler.takeEvents()).toMatchObject([{ kind: "stored", parent: null, hashes: ["0.0", "0.1", "0.2", "0.3"] }]);
    expect(scheduler.counters.receivedTokens).toBe(15);
  });

  it("counts as received only what lies behind its own hits", () => {
    const scheduler = createScheduler();
    scheduler.add(spec(0, 8, 1));
    drain(scheduler);
    const sequence = scheduler.add(spec(0, 16, 1, { receivedTokens: 16 }));
    expect(scheduler.schedule()?.prefillTokens).toBe(1);
    expect(sequence.cachedTokens).toBe(15);
    expect(scheduler.counters).toMatchObject({ hitTokens: 8, receivedTokens: 7 });
    expect(scheduler.takeEvents()).toMatchObject([{ kind: "stored", hashes: ["0.2", "0.3"] }]);
  });

  it("keeps the blocks of an ended sequence for another engine until they are released, and frees those of an aborted one", () => {
    const scheduler = createScheduler();
    const held = scheduler.add(spec(0, 16, 1, { holdsBlocks: true }));
    drain(scheduler);
    expect(held.status).toBe("finished");
    expect(scheduler.pool.freeBlocks).toBe(100 - 4);
    scheduler.release(held);
    expect(scheduler.pool.freeBlocks).toBe(100);
    const aborted = scheduler.add(spec(100, 16, 1, { holdsBlocks: true }));
    scheduler.schedule();
    scheduler.abort(aborted);
    expect(scheduler.pool.freeBlocks).toBe(100);
  });
});
