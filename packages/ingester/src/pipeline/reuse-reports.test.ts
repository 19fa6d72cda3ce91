import { FakeClock } from "@kvatlas/shared/clock";
import type { BlockStored, KvEvent } from "@kvatlas/shared/events/events";
import { storedEvent } from "@kvatlas/shared/events/stored-event.fixture";
import type { EngineHash } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { ReuseReports } from "./reuse-reports.ts";

const stored = (hashes: readonly string[], parent: string | null, more: Partial<BlockStored> = {}): BlockStored =>
  storedEvent(
    { hashes: hashes as readonly EngineHash[], parent: parent as EngineHash | null, tokenIds: hashes.flatMap(() => [1, 2]) },
    more,
  );
const report = stored(["a", "b"], null);

describe("ReuseReports", () => {
  const cases: readonly (readonly [string, readonly KvEvent[], BlockStored | null])[] = [
    ["a stored prefix that the same batch goes on from", [report, stored(["x"], null), stored(["c"], "b")], report],
    ["a single block", [stored(["a"], null), stored(["b"], "a")], null],
    ["nothing that goes on", [report, stored(["d"], "c")], null],
    ["what goes on in another group", [report, stored(["c"], "b", { group: 1 })], null],
    ["what went on before", [stored(["c"], "b"), report], null],
    ["hash-only stores", [stored(["a", "b"], null, { tokenIds: [] }), stored(["c"], "b")], null],
    ["other media", [stored(["a", "b"], null, { medium: "cpu" }), stored(["c"], "b", { medium: "cpu" })], null],
  ];
  it.each(cases)("looks at %s accordingly", (_, events, expected) => {
    expect(new ReuseReports(new FakeClock(), "auto", false).suspect(events)).toBe(expected);
  });

  it("is convinced by the third sighting, looks now and then until there is one, and forgets with the run", () => {
    const clock = new FakeClock();
    const reuse = new ReuseReports(clock, "auto", false);
    const events = [report, stored(["c"], "b")];
    expect(reuse.suspect(events)).toBe(report);
    expect(reuse.suspect(events)).toBeNull();
    expect(reuse.looked(false)).toBe(false);
    expect(reuse.suspect(events)).toBeNull();
    clock.advance(1_000);
    for (let sighting = 0; sighting < 2; sighting++) {
      expect(reuse.suspect(events)).toBe(report);
      expect(reuse.looked(true)).toBe(false);
    }
    expect(reuse.suspect(events)).toBe(report);
    expect(reuse.opOf(report)).toBe("store");
    expect(reuse.looked(true)).toBe(true);
    expect([report, stored(["c"], "b"), stored(["a"], null, { medium: "cpu" })].map((event) => reuse.opOf(event))).toEqual([
      "confirm",
      "store",
      "store",
    ]);
    reuse.reset();
    expect([reuse.isShown, reuse.opOf(report)]).toEqual([false, "store"]);
  });

  it("does as it is told otherwise", () => {
    const events = [report, stored(["c"], "b")];
    const [confirm, count] = [new ReuseReports(new FakeClock(), "confirm", false), new ReuseReports(new FakeClock(), "count", true)];
    expect([confirm.opOf(report), count.opOf(report)]).toEqual(["confirm", "store"]);
    expect([confirm.suspect(events), count.suspect(events)]).toEqual([null, null]);
  });
});
