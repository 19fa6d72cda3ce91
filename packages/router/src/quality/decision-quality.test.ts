import { FakeClock } from "@kvatlas/shared/clock";
import { silentLogger } from "@kvatlas/shared/logger";
import type { RouterQuality } from "@kvatlas/shared/registry/quality-records";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { DecisionQuality } from "./decision-quality.ts";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

it("findings are told at once and kept from expiring, once each, without any request", async () => {
  const clock = new FakeClock();
  const saved: (RouterQuality["findings"] | null)[] = [];
  const save = async (_: string, { findings }: RouterQuality): Promise<void> => void saved.push(findings ?? null);
  const quality = new DecisionQuality(
    { records: { save, read: async () => new Map() }, clock, logger: silentLogger, onDecision: () => {}, onPrediction: () => {} },
    "me",
  );
  await quality.start();
  const pass = async (seconds: number): Promise<void> => {
    for (let i = 0; i < seconds; i++) {
      clock.advance(1_000);
      await vi.advanceTimersByTimeAsync(1_000);
    }
  };
  await pass(100);
  expect(saved).toEqual([]);
  const finding = { pool: "chat", name: "tokenizer", text: "it is not the engine's" };
  quality.found({ ...finding, text: "an earlier one" });
  quality.found(finding);
  await pass(2);
  expect(saved).toEqual([[finding]]);
  await pass(58);
  // Before the 60 s after which they are forgotten.
  expect(saved.slice(1)).toEqual([[finding]]);
  await quality.close();
});
