import { buckets } from "@kvatlas/shared/metrics";
import { Counter, Gauge, Histogram, type Registry } from "prom-client";

/** Why events were lost or had to be fetched again. */
export type GapCause = "live" | "overflow" | "reconnect" | "behind" | "takeover" | "audit" | "quiet";
export type LostCause = "no replay" | "replay silent" | "rolled";
export type ResetCause = "gap" | "restart" | "cleared" | "audit" | "asleep" | "recovered" | "two publishers" | "reuse reports" | "scheme";

/**
 * Metrics of one ingester, in a registry of its own. Label values are bounded: causes and kinds are closed lists, and `endpoint` series are
 * removed when the endpoint leaves this instance.
 */
export function createIngesterMetrics(registry: Registry) {
  const registers = [registry];
  const perEndpoint = {
    lagBatches: new Gauge({
      name: "kvatlas_ingester_lag_batches",
      help: "Batches seen from the endpoint and not yet in the index.",
      labelNames: ["endpoint"],
      registers,
    }),
    lagSeconds: new Gauge({
      name: "kvatlas_ingester_lag_seconds",
      help: "How long the oldest batch received from the endpoint has been waiting to be in the index, seen once per heartbeat.",
      labelNames: ["endpoint"],
      registers,
    }),
    keyMatchRatio: new Gauge({
      name: "kvatlas_ingester_key_match_ratio",
      help: "Of the endpoint's stored blocks that were recomputed lately, the share whose key came out as the engine's.",
      labelNames: ["endpoint"],
      registers,
    }),
    queueBytes: new Gauge({
      name: "kvatlas_ingester_queue_bytes",
      help: "Undecoded events of the endpoint.",
      labelNames: ["endpoint"],
      registers,
    }),
  };
  const findings = new Gauge({
    name: "kvatlas_ingester_endpoint_findings",
    help: "1 for what an operator should know about the endpoint, by the finding's name; `kvatlas inspect endpoints` has the sentence.",
    labelNames: ["endpoint", "finding"],
    registers,
  });
  const shown = new Map<string, ReadonlySet<string>>();
  function showFindings(endpoint: string, names: Iterable<string>): void {
    const now = new Set(names);
    for (const finding of shown.get(endpoint) ?? []) if (!now.has(finding)) findings.remove({ endpoint, finding });
    for (const finding of now) findings.set({ endpoint, finding }, 1);
    if (now.size === 0) shown.delete(endpoint);
    else shown.set(endpoint, now);
  }
  return {
    ...perEndpoint,
    /** The endpoint's findings as they are now; those that are withdrawn disappear. */
    showFindings,
    /** Ends the series of an endpoint that leaves this instance. */
    forgetEndpoint: (endpoint: string): void => {
      for (const gauge of Object.values(perEndpoint)) gauge.remove({ endpoint });
      showFindings(endpoint, []);
    },
    frames: new Counter({
      name: "kvatlas_ingester_frames_total",
      help: "Live messages received, by outcome.",
      labelNames: ["outcome"],
      registers,
    }),
    connections: new Counter({
      name: "kvatlas_ingester_connections_total",
      help: "What happened to connections with publishers, by event: up, down, dialled again, refused in the handshake.",
      labelNames: ["event"],
      registers,
    }),
    events: new Counter({
      name: "kvatlas_ingester_events_total",
      help: "Engine events taken in, by kind.",
      labelNames: ["kind"],
      registers,
    }),
    skipped: new Counter({
      name: "kvatlas_ingester_skipped_total",
      help: "Events or parts of them that were passed over, by reason.",
      labelNames: ["reason"],
      registers,
    }),
    blocks: new Counter({
      name: "kvatlas_ingester_block_operations_total",
      help: "Block operations written, by operation.",
      labelNames: ["op"],
      registers,
    }),
    duplicates: new Counter({
      name: "kvatlas_ingester_duplicate_parts_total",
      help: "Script parts that a shard had applied before.",
      registers,
    }),
    unknownRemovals: new Counter({
      name: "kvatlas_ingester_unknown_removals_total",
      help: "Removals of blocks that the endpoint was not known to hold.",
      registers,
    }),
    gaps: new Counter({
      name: "kvatlas_ingester_gaps_total",
      help: "Holes in a sequence, by how they came to be.",
      labelNames: ["cause"],
      registers,
    }),
    lost: new Counter({
      name: "kvatlas_ingester_lost_gaps_total",
      help: "Holes that no replay could fill, by reason.",
      labelNames: ["cause"],
      registers,
    }),
    replays: new Counter({
      name: "kvatlas_ingester_replays_total",
      help: "Replays asked for, by outcome.",
      labelNames: ["outcome"],
      registers,
    }),
    replayed: new Counter({ name: "kvatlas_ingester_replayed_batches_total", help: "Batches that came by replay.", registers }),
    resets: new Counter({
      name: "kvatlas_ingester_incarnations_total",
      help: "New incarnations of endpoints, by cause.",
      labelNames: ["cause"],
      registers,
    }),
    flushSeconds: new Histogram({
      name: "kvatlas_ingester_flush_seconds",
      help: "Time of one write to the index.",
      buckets: [...buckets.fastSeconds],
      registers,
    }),
    visibleSeconds: new Histogram({
      name: "kvatlas_ingester_visible_seconds",
      help: "From a live message received to its operations in the index.",
      buckets: [...buckets.fastSeconds, 0.5, 1, 5],
      registers,
    }),
    storeRetries: new Counter({
      name: "kvatlas_ingester_store_retries_total",
      help: "Writes repeated because the store did not answer.",
      registers,
    }),
    checkedBlocks: new Counter({
      name: "kvatlas_ingester_checked_blocks_total",
      help: "Stored blocks whose key was recomputed, by result.",
      labelNames: ["result"],
      registers,
    }),
    swept: new Counter({
      name: "kvatlas_ingester_swept_entries_total",
      help: "Entries of dead incarnations reclaimed by this instance.",
      registers,
    }),
    leases: new Counter({
      name: "kvatlas_ingester_lease_changes_total",
      help: "Endpoints taken, given up and lost.",
      labelNames: ["change"],
      registers,
    }),
    owned: new Gauge({ name: "kvatlas_ingester_endpoints", help: "Endpoints owned by this instance.", registers }),
    scrapes: new Counter({
      name: "kvatlas_ingester_scrapes_total",
      help: "Looks at replicas, by outcome.",
      labelNames: ["outcome"],
      registers,
    }),
  };
}

export type IngesterMetrics = ReturnType<typeof createIngesterMetrics>;
