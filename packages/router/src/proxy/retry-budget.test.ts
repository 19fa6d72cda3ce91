import { FakeClock } from "@kvatlas/shared/clock";
import { describe, expect, it } from "vitest";
import { RetryBudget } from "./retry-budget.ts";

function taken(budget: RetryBudget, tries: number): number {
  let count = 0;
  for (let i = 0; i < tries; i++) if (budget.take()) count += 1;
  return count;
}

describe("RetryBudget", () => {
  it("allows what the seconds give, and what the requests give", () => {
    const clock = new FakeClock();
    const budget = new RetryBudget({ ratio: 0.25, minPerSecond: 1 }, clock);
    expect(taken(budget, 100)).toBe(10);
    clock.advance(2_000);
    expect(taken(budget, 100)).toBe(2);
    for (let i = 0; i < 40; i++) budget.deposit();
    expect(taken(budget, 100)).toBe(10);
  });

  it("allows none where none are wanted", () => {
    const budget = new RetryBudget({ ratio: 0, minPerSecond: 0 }, new FakeClock());
    budget.deposit();
    expect(budget.take()).toBe(false);
  });
});
