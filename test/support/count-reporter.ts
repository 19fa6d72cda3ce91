import { writeSync } from "node:fs";
import type { Reporter, SerializedError, TestModule } from "vitest/node";

/**
 * Prints `N passed, N failed` (and `, N skipped` where there are any) as the very last line of a run.
 * A test file that cannot be loaded, an error outside any test, and a run that never began count as one failure each.
 */
export default class CountReporter implements Reporter {
  #line: string | null = null;

  constructor() {
    // At exit: reporters and the global teardown have had their say by then.
    process.once("exit", (code) => {
      const line = this.#line ?? (code === 0 ? "0 passed, 0 failed" : "0 passed, 1 failed");
      writeSync(1, `${line}\n`);
    });
  }

  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]): void {
    let passed = 0;
    let failed = unhandledErrors.length;
    let skipped = 0;
    for (const module of modules) {
      let failedHere = 0;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === "passed") passed += 1;
        else if (state === "skipped") skipped += 1;
        else failedHere += 1;
      }
      if (failedHere === 0 && !module.ok()) failedHere = 1;
      failed += failedHere;
    }
    this.#line = `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
  }
}
