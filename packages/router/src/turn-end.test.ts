import { expect, it } from "vitest";
import { TurnEnd } from "./turn-end.ts";

it("runs what a turn has left without a turn in between, and what these leave in the next one", async () => {
  const turnEnd = new TurnEnd();
  const ran: string[] = [];
  turnEnd.run(() => {
    ran.push("first");
    process.nextTick(() => ran.push("after all"));
    turnEnd.run(() => ran.push("later"));
  });
  turnEnd.run(() => ran.push("second"));
  expect(ran).toEqual([]);
  await new Promise((resolve) => turnEnd.run(() => turnEnd.run(() => resolve(null))));
  expect(ran).toEqual(["first", "second", "after all", "later"]);
});
