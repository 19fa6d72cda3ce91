import { buckets } from "@kvatlas/shared/metrics";
import type { ServerMemory } from "@kvatlas/shared/redis-memory";
import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import { type AuditReport, findingKinds } from "./audit-report.ts";

/** Metrics of housekeeping. What the fleet's last audit found is told by every ingester alike, whoever ran it. */
export function createHousekeepingMetrics(registry: Registry) {
  const registers = [registry];
  const findings = new Gauge({
    name: "kvatlas_ingester_audit_findings",
    help: "Entries, positions and blocks that the last audit of the fleet found wrong, by kind.",
    labelNames: ["kind"],
    registers,
  });
  const index = new Gauge({
    name: "kvatlas_ingester_index_size",
    help: "The index at the last audit: blocks, entries that count, dead entries that wait for the purge, bytes.",
    labelNames: ["what"],
    registers,
  });
  const auditedAt = new Gauge({
    name: "kvatlas_ingester_audit_timestamp_seconds",
    help: "When the last audit of the fleet ended, seconds since the epoch.",
    registers,
  });
  const storeMemory = new Gauge({
    name: "kvatlas_redis_memory_bytes",
    help: "used_memory and maxmemory (0: no limit) of every server that holds data; from one ingester of the fleet.",
    labelNames: ["server", "what"],
    registers,
  });
  return {
    jobs: new Counter({
      name: "kvatlas_ingester_housekeeping_jobs_total",
      help: "Jobs of housekeeping run by this instance, by outcome.",
      labelNames: ["job", "outcome"],
      registers,
    }),
    jobSeconds: new Histogram({
      name: "kvatlas_ingester_housekeeping_job_seconds",
      help: "How long jobs of housekeeping took.",
      labelNames: ["job"],
      buckets: [...buckets.requestSeconds],
      registers,
    }),
    examined: new Counter({
      name: "kvatlas_ingester_swept_blocks_total",
      help: "Blocks that this instance has examined for dead entries.",
      registers,
    }),
    forgotten: new Counter({
      name: "kvatlas_ingester_departed_endpoints_total",
      help: "Endpoints that this instance has forgotten because nobody looked after them.",
      registers,
    }),
    rebuilds: new Counter({
      name: "kvatlas_ingester_rebuilds_total",
      help: "Endpoints of this instance that began anew because an audit asked for it.",
      registers,
    }),
    /** With none: another ingester tells. */
    showMemory: (servers: readonly ServerMemory[]): void => {
      storeMemory.reset();
      for (const { server, usedBytes, maxBytes } of servers) {
        storeMemory.set({ server, what: "used" }, usedBytes);
        storeMemory.set({ server, what: "max" }, maxBytes);
      }
    },
    showAudit: (report: AuditReport): void => {
      for (const kind of findingKinds) findings.set({ kind }, report.findings[kind]);
      for (const [what, value] of Object.entries(report.size)) if (value !== null) index.set({ what }, value);
      auditedAt.set(report.at / 1_000);
    },
  };
}

export type HousekeepingMetrics = ReturnType<typeof createHousekeepingMetrics>;
