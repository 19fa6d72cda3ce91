import { describe, expect, it } from "vitest";
import { isKvatlasError, KvatlasError } from "./errors.ts";
import { type Component, createLifecycle } from "./lifecycle.ts";
import { silentLogger } from "./logger.ts";

const deps = { logger: silentLogger };
const options = { name: "service", closeTimeoutMs: 1_000 };

/** A component that writes down what happens to it. */
function recorded(name: string, log: string[], overrides: Partial<Component> = {}): Component {
  return {
    name,
    start: async () => {
      log.push(`start ${name}`);
      await overrides.start?.();
    },
    close: async () => {
      log.push(`close ${name}`);
      await overrides.close?.();
    },
  };
}

describe("createLifecycle", () => {
  it("starts in order and closes in reverse", async () => {
    const log: string[] = [];
    const lifecycle = createLifecycle([recorded("a", log), recorded("b", log), recorded("c", log)], deps, options);
    await lifecycle.start();
    await lifecycle.close();
    expect(log).toEqual(["start a", "start b", "start c", "close c", "close b", "close a"]);
  });

  it("closes once, whoever asks", async () => {
    const log: string[] = [];
    const lifecycle = createLifecycle([recorded("a", log)], deps, options);
    await lifecycle.start();
    expect(lifecycle.close()).toBe(lifecycle.close());
    await lifecycle.close();
    expect(log).toEqual(["start a", "close a"]);
  });

  it("closes what it has started, the failed one included, when a start fails", async () => {
    const log: string[] = [];
    const fails = { start: () => Promise.reject(new KvatlasError("KVATLAS_PORT_IN_USE", "taken")) };
    const lifecycle = createLifecycle([recorded("a", log), recorded("b", log, fails), recorded("c", log)], deps, options);
    await expect(lifecycle.start()).rejects.toThrow("taken");
    expect(log).toEqual(["start a", "start b", "close b", "close a"]);
    await lifecycle.close();
    expect(log).toHaveLength(4);
  });

  it("goes on closing after a failure and rejects at the end", async () => {
    const log: string[] = [];
    const fails = { close: () => Promise.reject(new Error("cannot close b")) };
    const lifecycle = createLifecycle([recorded("a", log), recorded("b", log, fails)], deps, options);
    await lifecycle.start();
    await expect(lifecycle.close()).rejects.toThrow("cannot close b");
    expect(log).toEqual(["start a", "start b", "close b", "close a"]);
  });

  it("leaves a component behind that does not close in time", async () => {
    const log: string[] = [];
    const hangs = { close: () => new Promise<void>(() => {}) };
    const lifecycle = createLifecycle([recorded("a", log), recorded("b", log, hangs)], deps, { name: "service", closeTimeoutMs: 20 });
    await lifecycle.start();
    const error = await lifecycle.close().then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(isKvatlasError(error, "KVATLAS_DEADLINE_EXCEEDED")).toBe(true);
    expect(log.at(-1)).toBe("close a");
  });

  it("does not start what comes after a close", async () => {
    const log: string[] = [];
    let release = (): void => {};
    const slow = { start: () => new Promise<void>((resolve) => (release = resolve)) };
    const lifecycle = createLifecycle([recorded("a", log, slow), recorded("b", log)], deps, options);
    const starting = lifecycle.start();
    const closing = lifecycle.close();
    release();
    await Promise.all([starting, closing]);
    expect(log).toEqual(["start a", "close a"]);
  });
});
