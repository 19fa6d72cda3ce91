import { setTimeout as sleep } from "node:timers/promises";

const defaultDeadlineMs = 20_000;
const pollMs = 5;

/**
 * Waits until `check` no longer throws and returns what it returned; past the deadline its last error is the test's.
 * The deadline only bounds a failing test: nothing is asserted about time.
 */
export async function eventually<T>(check: () => T | Promise<T>, deadlineMs = defaultDeadlineMs): Promise<T> {
  const deadline = performance.now() + deadlineMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await sleep(pollMs);
    }
  }
}

/** Waits until `condition` holds. */
export async function eventuallyTrue(condition: () => boolean | Promise<boolean>, deadlineMs = defaultDeadlineMs): Promise<void> {
  await eventually(async () => {
    if (!(await condition())) throw new Error(`this did not come true within ${deadlineMs} ms: ${condition}`);
  }, deadlineMs);
}
