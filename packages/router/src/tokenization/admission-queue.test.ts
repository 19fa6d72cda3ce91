import { describe, expect, it } from "vitest";
import { AdmissionQueue } from "./admission-queue.ts";

function deferred(): { readonly promise: Promise<string>; readonly resolve: (value: string) => void } {
  let resolve: (value: string) => void = () => undefined;
  const promise = new Promise<string>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

describe("AdmissionQueue", () => {
  it("runs in order, and refuses beyond its bound", async () => {
    const queue = new AdmissionQueue({ concurrency: 1, maxQueue: 1 });
    const gate = deferred();
    const first = queue.run(() => gate.promise);
    const second = queue.run(async () => "second");
    await expect(queue.run(async () => "third")).rejects.toMatchObject({ code: "KVATLAS_TOKENIZER_BUSY", retryable: true });
    gate.resolve("first");
    expect(await Promise.all([first, second])).toEqual(["first", "second"]);
  });

  it("lets a caller go at once, but a started job keeps its place until it ends", async () => {
    const queue = new AdmissionQueue({ concurrency: 1, maxQueue: 4 });
    const gate = deferred();
    const [running, waiting] = [new AbortController(), new AbortController()];
    const first = queue.run(() => gate.promise, running.signal);
    let ran = false;
    const second = queue.run(async () => {
      ran = true;
      return "second";
    }, waiting.signal);
    const third = queue.run(async () => "third");
    waiting.abort();
    running.abort();
    await expect(first).rejects.toMatchObject({ code: "KVATLAS_DEADLINE_EXCEEDED" });
    await expect(second).rejects.toMatchObject({ code: "KVATLAS_DEADLINE_EXCEEDED" });
    expect(queue.waiting).toBe(1);
    gate.resolve("late");
    expect(await third).toBe("third");
    expect(ran).toBe(false);
  });

  it("closing refuses what waits and awaits what runs", async () => {
    const queue = new AdmissionQueue({ concurrency: 1, maxQueue: 4 });
    const gate = deferred();
    const first = queue.run(() => gate.promise);
    const second = queue.run(async () => "second");
    const closed = queue.close();
    await expect(second).rejects.toMatchObject({ code: "KVATLAS_TOKENIZER_BUSY" });
    gate.resolve("first");
    expect(await first).toBe("first");
    await closed;
    await expect(queue.run(async () => "later")).rejects.toMatchObject({ code: "KVATLAS_TOKENIZER_BUSY" });
  });
});
