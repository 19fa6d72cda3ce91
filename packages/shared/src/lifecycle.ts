import { type Clock, systemClock } from "./clock.ts";
import { KvatlasError } from "./errors.ts";
import type { Logger } from "./logger.ts";

/** Something that starts and stops. `close` drains, is idempotent and returns the same promise. */
export interface Component {
  readonly name: string;
  start(): Promise<void>;
  close(): Promise<void>;
}

export interface LifecycleDeps {
  readonly logger: Logger;
  readonly clock?: Clock;
}

export interface LifecycleOptions {
  readonly name: string;
  /** For all components together; one that takes longer is left behind, and the others still get their turn. */
  readonly closeTimeoutMs: number;
}

/**
 * Several components as one: started in the order given, closed in reverse, each step guarded so that one failure skips no other.
 *
 * `start` closes what it has started when one of them fails, and rejects with that failure. `close` during `start` stops after the
 * component that is starting. `close` rejects after the last step when one failed (KVATLAS_DEADLINE_EXCEEDED when it took too long).
 */
export function createLifecycle(components: readonly Component[], deps: LifecycleDeps, options: LifecycleOptions): Component {
  const clock = deps.clock ?? systemClock;
  const started: Component[] = [];
  let starting: Promise<void> | null = null;
  let closing: Promise<void> | null = null;

  async function startAll(): Promise<void> {
    for (const component of components) {
      if (closing !== null) return;
      // Counted before it starts: a component that failed half-way has things to close as well.
      started.push(component);
      try {
        await component.start();
      } catch (error) {
        // Called without waiting for `starting`, which is this very call.
        await closeAll().catch(() => {});
        throw error;
      }
    }
  }

  async function closeAll(): Promise<void> {
    const deadline = clock.monotonic() + options.closeTimeoutMs;
    const failures: unknown[] = [];
    while (started.length > 0) {
      const component = started.pop();
      if (component === undefined) break;
      try {
        await withDeadline(component.name, () => component.close(), Math.max(0, deadline - clock.monotonic()));
      } catch (error) {
        deps.logger.error({ err: error, component: component.name }, "component did not close cleanly");
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  return {
    name: options.name,
    start: () => {
      starting ??= startAll();
      return starting;
    },
    close: () => {
      closing ??= (async () => {
        // What is starting now is waited for, within the deadline (it failed: startAll has closed everything and told the caller of start).
        const opened = starting?.catch(() => {});
        if (opened !== undefined) await withDeadline(options.name, () => opened, options.closeTimeoutMs).catch(() => {});
        await closeAll();
      })();
      return closing;
    },
  };
}

async function withDeadline(name: string, step: () => Promise<void>, remainingMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(
        new KvatlasError("KVATLAS_DEADLINE_EXCEEDED", `${name} did not close in time: ${Math.round(remainingMs)} ms were left for it.`),
      );
    }, remainingMs);
  });
  try {
    await Promise.race([step(), late]);
  } finally {
    clearTimeout(timer);
  }
}
