import { FakeClock } from "@kvatlas/shared/clock";
import { describe, expect, it } from "vitest";
import { ReplayAgenda } from "./replay-agenda.ts";

function agendaAt(): { readonly agenda: ReplayAgenda; pass(ms: number): void } {
  const clock = new FakeClock();
  return { agenda: new ReplayAgenda(clock, { owedFrom: null }), pass: (ms) => clock.advance(ms) };
}

describe("ReplayAgenda", () => {
  it("asks once when a stream has fallen quiet, and not before", () => {
    const { agenda, pass } = agendaAt();
    expect(agenda.dueAt).toBeNull();
    for (let i = 0; i < 10; i++) {
      agenda.heard();
      pass(500);
      expect(agenda.isDue).toBe(false);
    }
    pass(500);
    expect(agenda.isDue).toBe(true);
    agenda.answered();
    pass(1_000_000);
    expect(agenda.isDue).toBe(false);
  });

  it("asks a stream with a batch now and then every few seconds at most", () => {
    const { agenda, pass } = agendaAt();
    agenda.heard();
    pass(1_000);
    agenda.answered();
    agenda.heard();
    pass(1_000);
    expect(agenda.isDue).toBe(false);
    pass(1_000);
    expect(agenda.isDue).toBe(true);
  });

  it("asks an engine that works without a batch, however long it does", () => {
    const { agenda, pass } = agendaAt();
    for (let i = 0; i < 2; i++) {
      agenda.worked();
      pass(500);
      agenda.worked();
      pass(500);
    }
    expect(agenda.isDue).toBe(true);
    agenda.asked();
    agenda.answered();
    expect(agenda.dueAt).toBeNull();
  });

  it("asks again when the engine has worked while it was asked: the answer may be of before", () => {
    const { agenda, pass } = agendaAt();
    agenda.worked();
    pass(1_000);
    agenda.asked();
    agenda.worked();
    agenda.answered();
    expect(agenda.dueAt).not.toBeNull();
    pass(2_000);
    expect(agenda.isDue).toBe(true);
    agenda.asked();
    agenda.answered();
    expect(agenda.dueAt).toBeNull();
  });

  it("asks again what was not answered, ever less often, also while batches come", () => {
    const { agenda, pass } = agendaAt();
    const waits: number[] = [];
    for (let i = 0; i < 8; i++) {
      agenda.unanswered();
      let waited = 0;
      for (; !agenda.isDue; waited += 1_000) {
        agenda.heard();
        pass(1_000);
      }
      waits.push(waited);
    }
    expect(waits).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
    agenda.answered();
    expect(agenda.dueAt).toBeNull();
  });

  it("asks at once for what it owes when somebody answers", () => {
    const { agenda } = agendaAt();
    agenda.owe(7);
    agenda.owe(9);
    expect([agenda.owedFrom, agenda.isDue]).toEqual([7, false]);
    agenda.answered();
    expect(agenda.isDue).toBe(true);
    agenda.settleDebt();
    agenda.answered();
    expect([agenda.owedFrom, agenda.dueAt]).toEqual([null, null]);
  });
});
