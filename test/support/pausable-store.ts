import type { TestStore } from "./ingest-rig.ts";

/** A store whose calls can be held up, as if the process that makes them had been stopped or cut off. */
export interface PausableStore extends TestStore {
  /** From now on no call begins. */
  pause(): void;
  /** From now on no call to the index begins; the registry answers on. */
  pauseIndex(): void;
  /** Calls held up begin after all. */
  resume(): void;
}

/** One process's view of a shared store. */
export function pausable(store: TestStore): PausableStore {
  let gate: Promise<void> | null = null;
  let open: (() => void) | null = null;
  let isRegistryOpen = false;

  function close(): void {
    gate ??= new Promise((resolve) => {
      open = resolve;
    });
  }

  function gated<T extends object>(target: T, isRegistry = false): T {
    return new Proxy(target, {
      get: (_, name) => {
        const value: unknown = Reflect.get(target, name, target);
        if (typeof value !== "function" || name === "onChange") return value;
        return async (...args: readonly unknown[]) => {
          if (!(isRegistry && isRegistryOpen)) await gate;
          const result: unknown = await Reflect.apply(value, target, args);
          return name === "openWriter" && typeof result === "object" && result !== null ? gated(result) : result;
        };
      },
    });
  }

  return {
    index: gated(store.index),
    registry: gated(store.registry, true),
    pause: close,
    pauseIndex: () => {
      isRegistryOpen = true;
      close();
    },
    resume: () => {
      open?.();
      gate = null;
      isRegistryOpen = false;
    },
  };
}
