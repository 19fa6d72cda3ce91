import { Scheduler } from "@kvatlas/simulator/engine/scheduler";
import fc from "fast-check";
import { expect, it } from "vitest";

const blockSizeTokens = 4;

/** Requests that share prefixes: a family gives the first tokens, the length cuts them. */
const arrivals = fc.array(
  fc.record({
    family: fc.integer({ min: 0, max: 4 }),
    promptTokens: fc.integer({ min: 1, max: 60 }),
    answerTokens: fc.integer({ min: 1, max: 20 }),
    /** Steps until the next arrival. */
    gap: fc.integer({ min: 0, max: 3 }),
    /** Steps after which the client goes away; beyond the end it stays. */
    abortAfter: fc.integer({ min: 0, max: 60 }),
    reset: fc.integer({ min: 0, max: 9 }).map((roll) => roll === 0),
  }),
  { minLength: 1, maxLength: 40 },
);

const limits = fc.record({
  numBlocks: fc.integer({ min: 22, max: 60 }),
  maxNumSeqs: fc.integer({ min: 1, max: 6 }),
  maxNumBatchedTokens: fc.integer({ min: 3, max: 40 }),
  unhashedFreedFirst: fc.boolean(),
  reservesWholePrompt: fc.boolean(),
});

it("whatever arrives, events add up to the pool, every request ends, and no block leaks", () => {
  fc.assert(
    fc.property(arrivals, limits, (requests, options) => {
      const scheduler = new Scheduler({ ...options, blockSizeTokens, lookaheadTokens: 0, enablePrefixCaching: true, hostBlocks: 0 });
      const copies = new Map<string, number>();
      const live: { readonly sequence: ReturnType<Scheduler["add"]>; stepsLeft: number }[] = [];
      const step = (): boolean => {
        const plan = scheduler.schedule();
        if (plan !== null) scheduler.complete(plan);
        for (const event of scheduler.takeEvents()) {
          if (event.kind === "cleared") copies.clear();
          else if (event.kind === "stored") for (const hash of event.hashes) copies.set(hash, (copies.get(hash) ?? 0) + 1);
          else if (event.kind !== "removed") throw new Error(event.kind);
          else if (copies.get(event.hash) === 1) copies.delete(event.hash);
          else {
            const left = (copies.get(event.hash) ?? 0) - 1;
            if (left < 1) throw new Error(`removed ${event.hash}, which was not stored`);
            copies.set(event.hash, left);
          }
        }
        if (plan === null) return false;
        expect(plan.prefillTokens + plan.decodeSequences).toBeLessThanOrEqual(options.maxNumBatchedTokens);
        expect(scheduler.running.length).toBeLessThanOrEqual(options.maxNumSeqs);
        for (const entry of live) {
          entry.stepsLeft -= 1;
          if (entry.stepsLeft === 0) scheduler.abort(entry.sequence);
        }
        return true;
      };
      for (const [index, request] of requests.entries()) {
        const length = request.promptTokens + request.answerTokens;
        // Answers of one family agree, so generated blocks are hit as well.
        const tokenIds = Uint32Array.from({ length }, (_, i) => request.family * 1000 + i);
        const sequence = scheduler.add({
          id: String(index),
          tokenIds,
          promptTokens: request.promptTokens,
          finishReason: "length",
          hashes: Array.from({ length: Math.floor(length / blockSizeTokens) }, (_, i) => `${request.family}.${i}`),
          lora: null,
          cacheSalt: null,
          sessionId: null,
          skipsCacheLookup: false,
          reportsReusedBlocks: false,
        });
        live.push({ sequence, stepsLeft: request.abortAfter + 1 });
        if (request.reset) scheduler.reset();
        for (let i = 0; i < request.gap; i += 1) step();
      }
      let steps = 0;
      while (step() && steps < 100_000) steps += 1;
      expect(live.every(({ sequence }) => sequence.status === "finished")).toBe(true);
      expect([scheduler.pool.usage, scheduler.waiting.length, scheduler.running.length]).toEqual([0, 0, 0]);
      expect(Object.fromEntries(copies)).toEqual(Object.fromEntries(scheduler.pool.copies()));
    }),
    { numRuns: 300, interruptAfterTimeLimit: 10_000 },
  );
});
