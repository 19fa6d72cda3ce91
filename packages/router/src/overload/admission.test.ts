import { FakeClock } from "@kvatlas/shared/clock";
import { describe, expect, it } from "vitest";
import { HttpError } from "../request/openai-error.ts";
import { Admission, type Asking, type Permit, type Waiting } from "./admission.ts";

function rig(limit: number, options: { readonly maxQueued?: number; readonly maxWaitMs?: number } = {}) {
  const clock = new FakeClock();
  const shed: string[] = [];
  const admission = new Admission(
    { clock, limit: () => limit, onShed: (why, priority) => shed.push(`${why} ${priority}`), onWaited: () => {} },
    { maxQueued: options.maxQueued ?? 10, maxWaitMs: options.maxWaitMs ?? 60_000 },
  );
  return { clock, shed, admission };
}

const asking = (priority: Asking["priority"] = "standard", tenant = "t"): Asking => ({ priority, tenant, cost: 1 });

function waits(answer: Permit | Waiting): Waiting {
  if (!("permit" in answer)) throw new Error("it was let through");
  return answer;
}

function passes(answer: Permit | Waiting): Permit {
  if ("permit" in answer) throw new Error("it has to wait");
  return answer;
}

describe("Admission", () => {
  it("lets so many through, and the next one when one has ended", async () => {
    const { admission } = rig(2);
    const first = passes(admission.ask(asking()));
    passes(admission.ask(asking()));
    const third = waits(admission.ask(asking()));
    const fourth = waits(admission.ask(asking("critical")));
    first.release();
    first.release();
    expect(await fourth.permit).not.toBeNull();
    expect(admission.underWay).toBe(2);
    third.leave();
    expect(await third.permit).toBeNull();
    expect(admission.queued("standard")).toBe(0);
  });

  it("refuses what does not wait, and what finds no room, with the time to come again", () => {
    const { admission, shed } = rig(1, { maxQueued: 1 });
    passes(admission.ask(asking()));
    expect(() => admission.ask(asking("sheddable"))).toThrow(HttpError);
    waits(admission.ask(asking())).permit.catch(() => {});
    try {
      admission.ask(asking());
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ status: 429, retryAfterSeconds: 1 });
    }
    expect(shed).toEqual(["sheddable sheddable", "full standard"]);
  });

  it("gives the last place to who is more critical", async () => {
    const { admission, shed } = rig(1, { maxQueued: 1 });
    const running = passes(admission.ask(asking()));
    const standard = waits(admission.ask(asking()));
    const critical = waits(admission.ask(asking("critical")));
    await expect(standard.permit).rejects.toMatchObject({ status: 429 });
    expect(shed).toEqual(["displaced standard"]);
    running.release();
    expect(await critical.permit).not.toBeNull();
  });

  it("refuses at once what would wait too long", () => {
    const { admission, clock, shed } = rig(1, { maxWaitMs: 5_000 });
    let running = passes(admission.ask(asking()));
    // One ends every two seconds.
    for (let i = 0; i < 10; i++) {
      clock.advance(2_000);
      running.release();
      running = passes(admission.ask(asking()));
    }
    waits(admission.ask(asking()));
    waits(admission.ask(asking()));
    try {
      admission.ask(asking());
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ status: 429 });
      expect((error as HttpError).retryAfterSeconds).toBeGreaterThanOrEqual(5);
    }
    expect(shed).toEqual(["would-wait standard"]);
    // A tenant that has nothing in the queue would not wait behind all of these.
    waits(admission.ask(asking("standard", "other")));
  });

  it("refuses what has waited too long", async () => {
    const { admission, shed } = rig(1, { maxWaitMs: 5 });
    passes(admission.ask(asking()));
    await expect(waits(admission.ask(asking())).permit).rejects.toMatchObject({ status: 429 });
    expect(shed).toEqual(["waited standard"]);
  });
});
