import { Counter, Gauge, type Registry } from "prom-client";

export type DiscoveryMetrics = ReturnType<typeof createDiscoveryMetrics>;

/** Labels are bounded: kinds of objects are a closed list, and pools are those of the configuration. */
export function createDiscoveryMetrics(registry: Registry) {
  const registers = [registry];
  return {
    leading: new Gauge({
      name: "kvatlas_ingester_discovery_leading",
      help: "1 while this instance watches the cluster for the fleet.",
      registers,
    }),
    targets: new Gauge({
      name: "kvatlas_ingester_discovery_replicas",
      help: "Replicas that were discovered, by pool and state (ready, not ready); only where the cluster is watched.",
      labelNames: ["pool", "state"],
      registers,
    }),
    requests: new Counter({
      name: "kvatlas_ingester_kubernetes_requests_total",
      help: "Lists and watches of the API server that have ended, by kind of object and outcome.",
      labelNames: ["resource", "outcome"],
      registers,
    }),
  };
}
