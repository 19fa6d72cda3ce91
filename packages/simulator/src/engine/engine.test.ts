import { FakeClock } from "@kvatlas/shared/clock";
import { describe, expect, it } from "vitest";
import { Engine, type EngineObserver, type EventSink } from "./engine.ts";
import type { PoolEvent } from "./pool-events.ts";
import type { Sequence, SequenceSpec } from "./sequence.ts";

const quiet: EngineObserver = {
  onAdmitted: () => {},
  onFirstToken: () => {},
  onNextToken: () => {},
  onFinished: () => {},
  onStep: () => {},
};

/** An engine on a clock moved by hand: prefill 1,000 tokens/s, decode 10 ms a step and 1 ms a sequence. */
function createHarness(sink: Partial<EventSink> = {}, publishesBeforeStep = false) {
  const clock = new FakeClock(0);
  const timers: { at: number; run: () => void }[] = [];
  const published: { readonly atMs: number; readonly events: readonly PoolEvent[] }[] = [];
  const log: string[] = [];
  const engine = new Engine(
    {
      clock,
      schedule: (run, delayMs) => {
        const timer = { at: clock.monotonic() + Math.max(0, delayMs), run };
        timers.push(timer);
        return () => void (timers.includes(timer) && timers.splice(timers.indexOf(timer), 1));
      },
      sink: {
        publish: (events) => published.push({ atMs: clock.monotonic(), events }),
        isFull: false,
        whenRoom: () => Promise.resolve(),
        ...sink,
      },
      observer: quiet,
    },
    {
      scheduler: {
        blockSizeTokens: 10,
        numBlocks: 101,
        maxNumSeqs: 8,
        maxNumBatchedTokens: 1000,
        unhashedFreedFirst: true,
        reservesWholePrompt: true,
        lookaheadTokens: 0,
        enablePrefixCaching: true,
        hostBlocks: 0,
      },
      latency: {
        prefillTokensPerSecond: 1000,
        decodeMs: 10,
        decodeMsPerSequence: 1,
        contextMsPerThousandTokens: 0,
        hostLoadTokensPerSecond: 1e6,
        speed: 1,
      },
      publishesBeforeStep,
    },
  );
  const advance = (ms: number): void => {
    const end = clock.monotonic() + ms;
    for (;;) {
      const due = timers.filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      timers.splice(timers.indexOf(due), 1);
      clock.advance(Math.max(0, due.at - clock.monotonic()));
      due.run();
    }
    clock.advance(end - clock.monotonic());
  };
  const submit = (start: number, promptTokens: number, answerTokens: number): Sequence =>
    engine.submit(spec(start, promptTokens, answerTokens), {
      onToken: (sequence) => log.push(`${clock.monotonic()}:${sequence.spec.id}${sequence.status === "finished" ? "!" : ""}`),
      onLost: (reason) => log.push(`${clock.monotonic()}:${start} ${reason}`),
    });
  return { engine, advance, submit, log, published, timers };
}

function spec(start: number, promptTokens: number, answerTokens: number): SequenceSpec {
  const tokenIds = Uint32Array.from({ length: promptTokens + answerTokens }, (_, i) => start + i);
  return {
    id: `${start}`,
    tokenIds,
    promptTokens,
    finishReason: "length",
    hashes: Array.from({ length: Math.floor(tokenIds.length / 10) }, (_, i) => `${start}.${i}`),
    lora: null,
    cacheSalt: null,
    sessionId: null,
    skipsCacheLookup: false,
    reportsReusedBlocks: false,
  };
}

describe("Engine", () => {
  it("falls asleep between two steps: what the one under way has done is told with the first one after it wakes", () => {
    const { engine, advance, submit, log, published } = createHarness();
    submit(0, 100, 5);
    advance(20);
    engine.hold("sleep", true);
    engine.loseAll("sleep");
    engine.dropStep();
    expect(engine.reset()).toBe(true);
    advance(1_000);
    expect(log).toEqual(["20:0 sleep"]);
    expect(published).toEqual([]);
    engine.hold("sleep", false);
    advance(1_000);
    expect(published).toEqual([]);
    submit(500, 20, 1);
    advance(1_000);
    expect(published[0]?.events.map(({ kind }) => kind)).toEqual(["stored", "cleared", "stored"]);
  });

  it("spreads prefill and decode steps over time", () => {
    const { advance, submit, log } = createHarness();
    submit(0, 100, 3);
    advance(1000);
    expect(log).toEqual(["100:0", "111:0", "122:0!"]);
  });

  it("batches requests that arrive together, and decodes them in one step", () => {
    const { advance, submit, log } = createHarness();
    submit(0, 100, 2);
    submit(500, 100, 2);
    advance(1000);
    expect(log).toEqual(["200:0", "200:500", "212:0!", "212:500!"]);
  });

  it("slows decoding down while another request is prefilled", () => {
    const { advance, submit, log } = createHarness();
    submit(0, 10, 3);
    advance(10);
    submit(500, 90, 1);
    advance(1000);
    // The step that was on its way ends first; the next one computes the new prompt and a token.
    expect(log).toEqual(["10:0", "21:0", "122:0!", "122:500!"]);
  });

  it("publishes one batch per step, after the step or before it as the release has it", () => {
    const late = createHarness();
    late.submit(0, 100, 1);
    late.advance(1000);
    expect(late.published.map(({ atMs, events }) => [atMs, events.length])).toEqual([[100, 1]]);
    const early = createHarness({}, true);
    early.submit(0, 100, 1);
    early.advance(1000);
    expect(early.published.map(({ atMs }) => atMs)).toEqual([0]);
  });

  it("computes nothing while it hangs and goes on where it was", () => {
    const { engine, advance, submit, log } = createHarness();
    submit(0, 100, 2);
    advance(50);
    engine.hold("hang", true);
    advance(500);
    expect(log).toEqual([]);
    engine.hold("hang", false);
    advance(100);
    expect(log.map((line) => line.split(":")[1])).toEqual(["0", "0!"]);
  });

  it("loses everything on restart and starts over", () => {
    const { engine, advance, submit, log } = createHarness();
    submit(0, 100, 2);
    advance(50);
    engine.restart();
    advance(1000);
    expect(log).toEqual(["50:0 restart"]);
    submit(0, 100, 1);
    advance(1000);
    expect(log.at(-1)).toBe("1150:0!");
    expect(engine.scheduler.counters.hitTokens).toBe(0);
  });

  it("stops for good when closed", () => {
    const { engine, submit, log, timers } = createHarness();
    submit(0, 100, 2);
    engine.close();
    submit(500, 100, 2);
    expect(log).toEqual(["0:0 shutdown"]);
    expect(timers).toEqual([]);
  });
});
