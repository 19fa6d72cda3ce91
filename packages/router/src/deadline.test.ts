import { describe, expect, it } from "vitest";
import { within } from "./deadline.ts";

describe("within", () => {
  it("passes on what comes in time, good or bad", async () => {
    await expect(within(10_000, "it", async () => 1)).resolves.toBe(1);
    await expect(within(10_000, "it", () => Promise.reject(new Error("bad")))).rejects.toThrow("bad");
  });

  it("gives up at the deadline, and tells the task", async () => {
    let signal: AbortSignal | null = null;
    const late = within(5, "the task", (own) => {
      signal = own();
      return new Promise(() => {});
    });
    await expect(late).rejects.toMatchObject({ code: "KVATLAS_DEADLINE_EXCEEDED", message: "the task took longer than 5 ms." });
    expect((signal as AbortSignal | null)?.aborted).toBe(true);
  });

  it("hears an answer that was ready when the process came back from being busy", async () => {
    const answer = within(5, "it", () => new Promise((resolve) => setImmediate(() => resolve("there"))));
    const until = performance.now() + 20;
    while (performance.now() < until);
    await expect(answer).resolves.toBe("there");
  });
});
