import { collectDefaultMetrics, Gauge, Registry } from "prom-client";

/** Histogram buckets by what is measured, in seconds unless named otherwise. One set each, so that dashboards can compare services. */
export const buckets = {
  /** Lookups, decisions, script calls: 50 us to 250 ms. */
  fastSeconds: [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25],
  /** Answers of replicas: 5 ms to 5 min. */
  requestSeconds: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300],
  /** Fractions between 0 and 1. */
  ratio: [0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1],
  /** Numbers of tokens or blocks. */
  count: [1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144],
} as const;

export interface MetricsOptions {
  /** CPU, memory, event loop and garbage collection of the process. @defaultValue true */
  readonly processMetrics?: boolean;
}

/**
 * A registry of its own for one process, so that two services (or tests) in one process never share counters.
 * Metrics are named `kvatlas_<service>_<what>_<unit>` and take bounded label values only.
 */
export function createMetricsRegistry(service: string, options: MetricsOptions = {}): Registry {
  const registry = new Registry();
  if (options.processMetrics !== false) collectDefaultMetrics({ register: registry });
  new Gauge({
    name: "kvatlas_service_info",
    help: "Always 1; the labels say what runs here.",
    labelNames: ["service", "node_version"],
    registers: [registry],
  }).set({ service, node_version: process.versions.node }, 1);
  return registry;
}
