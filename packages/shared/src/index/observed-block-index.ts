import { Histogram, type Registry } from "prom-client";
import { type Clock, systemClock } from "../clock.ts";
import { isKvatlasError } from "../errors.ts";
import { buckets } from "../metrics.ts";
import type { BlockIndex, IndexWriter } from "./block-index.ts";

export interface ObservedBlockIndexDeps {
  readonly index: BlockIndex;
  readonly metrics: BlockIndexMetrics;
  /** @defaultValue the system's */
  readonly clock?: Clock;
}

/** What one process measures of its index; make it once per registry. */
export interface BlockIndexMetrics {
  /** Seconds per call, by `operation` and by `outcome`: `ok`, an error code, or `error`. */
  readonly seconds: Histogram<"operation" | "outcome">;
  /** Keys per looked-up chain. */
  readonly keys: Histogram;
}

export function createBlockIndexMetrics(registry: Registry): BlockIndexMetrics {
  return {
    seconds: new Histogram({
      name: "kvatlas_index_call_seconds",
      help: "Calls of the block index, by operation and outcome (ok or an error code).",
      labelNames: ["operation", "outcome"],
      buckets: [...buckets.fastSeconds, 1, 5],
      registers: [registry],
    }),
    keys: new Histogram({
      name: "kvatlas_index_lookup_keys",
      help: "Block keys per looked-up chain.",
      buckets: [...buckets.count],
      registers: [registry],
    }),
  };
}

type Operation =
  | "open"
  | "lookup"
  | "holders"
  | "names"
  | "forget"
  | "sweep"
  | "reclaim"
  | "walk"
  | "positions"
  | "census"
  | "apply"
  | "settle"
  | "verify";

/** Any index, with its calls measured. */
export function createObservedBlockIndex(deps: ObservedBlockIndexDeps): BlockIndex {
  const { index, metrics } = deps;
  const clock = deps.clock ?? systemClock;

  async function measured<T>(operation: Operation, call: () => Promise<T>): Promise<T> {
    const began = clock.monotonic();
    let outcome = "ok";
    try {
      return await call();
    } catch (error) {
      outcome = isKvatlasError(error) ? error.code : "error";
      throw error;
    } finally {
      metrics.seconds.observe({ operation, outcome }, (clock.monotonic() - began) / 1_000);
    }
  }

  const observedWriter = (writer: IndexWriter): IndexWriter => ({
    target: writer.target,
    get applied() {
      return writer.applied;
    },
    apply: (batches) => measured("apply", () => writer.apply(batches)),
    keysOf: (names) => measured("names", () => writer.keysOf(names)),
    settle: () => measured("settle", () => writer.settle()),
    verify: () => measured("verify", () => writer.verify()),
  });

  return {
    openWriter: async (target) => observedWriter(await measured("open", () => index.openWriter(target))),
    lookup: (queries, options) => {
      for (const { keys } of queries) metrics.keys.observe(keys.length);
      return measured("lookup", () => index.lookup(queries, options));
    },
    holders: (scope, key) => measured("holders", () => index.holders(scope, key)),
    keysOf: (scope, holder, names) => measured("names", () => index.keysOf(scope, holder, names)),
    forget: (scope, endpoint) => measured("forget", () => index.forget(scope, endpoint)),
    sweep: (scope, cursor, limit) => measured("sweep", () => index.sweep(scope, cursor, limit)),
    reclaim: (used, cursor, limit) => measured("reclaim", () => index.reclaim(used, cursor, limit)),
    walk: (scope, cursor, limit) => measured("walk", () => index.walk(scope, cursor, limit)),
    positions: (scope) => measured("positions", () => index.positions(scope)),
    census: (maxKeys) => measured("census", () => index.census(maxKeys)),
    close: () => index.close(),
  };
}
