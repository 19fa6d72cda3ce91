import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FairQueue, type Place, priorities } from "./fair-queue.ts";

function drain<T>(queue: FairQueue<T>): T[] {
  const served: T[] = [];
  for (let next = queue.pop(); next !== null; next = queue.pop()) served.push(next);
  return served;
}

describe("FairQueue", () => {
  it("serves priorities in order", () => {
    const queue = new FairQueue<string>();
    for (const priority of priorities.toReversed()) queue.push(priority, "t", 1, priority);
    expect(drain(queue)).toEqual([...priorities]);
  });

  it("lets tenants take turns, whoever asked for more", () => {
    const queue = new FairQueue<string>();
    for (let i = 0; i < 4; i++) queue.push("standard", "many", 1, `many ${i}`);
    expect(queue.pop()).toBe("many 0");
    queue.push("standard", "few", 1, "few 0");
    queue.push("standard", "few", 1, "few 1");
    expect(queue.ahead("standard", "new")).toBeLessThanOrEqual(2);
    const served = drain(queue);
    // It asks for twice as much, and is not served twice before the other is served once.
    expect(served.indexOf("few 1")).toBeLessThan(served.indexOf("many 3"));
    expect(served.indexOf("few 0")).toBeLessThan(served.indexOf("many 2"));
  });

  it("counts requests by what they cost", () => {
    const queue = new FairQueue<string>();
    for (let i = 0; i < 3; i++) queue.push("standard", "long", 10, "long");
    for (let i = 0; i < 12; i++) queue.push("standard", "short", 1, "short");
    const served = drain(queue);
    expect(served.slice(0, 12).filter((tenant) => tenant === "long")).toHaveLength(2);
  });

  it("lets the lowest priority make room first, and the greediest tenant of it", () => {
    const queue = new FairQueue<string>();
    queue.push("standard", "a", 1, "standard a");
    queue.push("sheddable", "a", 1, "a 0");
    queue.push("sheddable", "b", 1, "b 0");
    queue.push("sheddable", "b", 1, "b 1");
    expect(queue.lastBelow("critical")?.value).toBe("b 1");
    expect(queue.lastBelow("sheddable")).toBeNull();
  });

  it("serves everybody once, whatever happens", () => {
    const step = fc.record({
      priority: fc.constantFrom(...priorities),
      tenant: fc.constantFrom("a", "b", "c"),
      cost: fc.integer({ min: 1, max: 50 }),
      act: fc.constantFrom("push", "push", "pop", "remove"),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const queue = new FairQueue<number>();
        const waiting = new Map<number, Place<number>>();
        let id = 0;
        for (const { priority, tenant, cost, act } of steps) {
          if (act === "push") {
            waiting.set(id, queue.push(priority, tenant, cost, id));
            id += 1;
            continue;
          }
          if (act === "pop") {
            const next = queue.pop();
            expect(next === null).toBe(waiting.size === 0);
            if (next !== null) expect(waiting.delete(next)).toBe(true);
            continue;
          }
          const [first] = waiting;
          if (first === undefined) continue;
          expect(queue.remove(first[1])).toBe(true);
          expect(queue.remove(first[1])).toBe(false);
          waiting.delete(first[0]);
        }
        expect(queue.size).toBe(waiting.size);
        expect(new Set(drain(queue))).toEqual(new Set(waiting.keys()));
      }),
      { numRuns: 300 },
    );
  });
});
