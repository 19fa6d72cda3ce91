import { expect, it } from "vitest";
import { FakeClock } from "./clock.ts";
import { RedisTroubles } from "./redis-troubles.ts";

it("what Redis refuses is told while it is met, and not what passes by itself", () => {
  const clock = new FakeClock();
  const troubles = new RedisTroubles(clock);
  for (const code of ["MOVED", "NOSCRIPT", "timeout", "unreachable", "ERR"] as const) troubles.see(code);
  expect(troubles.sentences()).toEqual([]);
  troubles.see("OOM");
  clock.advance(3_000);
  troubles.see("MISCONF");
  expect(troubles.sentences()).toEqual([expect.stringMatching(/persist.*\(MISCONF\)/), expect.stringMatching(/maxmemory.*\(OOM\)/)]);
  clock.advance(3_000);
  expect(troubles.sentences()).toEqual([expect.stringContaining("(MISCONF)")]);
  clock.advance(10_000);
  expect(troubles.sentences()).toEqual([]);
});
