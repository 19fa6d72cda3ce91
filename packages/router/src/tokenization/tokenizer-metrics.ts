import { Counter, Gauge, type Registry } from "prom-client";
import type { AuditResult } from "./audited-encoder.ts";

/** What tokenizers report of themselves; pools are those of the configuration. */
export class TokenizerMetrics {
  readonly #source: Gauge<"pool" | "source">;
  readonly #audits: Counter<"pool" | "result">;
  readonly #threadFailures: Counter<"pool">;
  readonly #threadsEnded: Counter<"pool">;

  constructor(registry: Registry) {
    const registers = [registry];
    this.#source = new Gauge({
      name: "kvatlas_router_tokenizer_source",
      help: "1 for where prompts of the pool are encoded: local or remote (asked of replicas).",
      labelNames: ["pool", "source"],
      registers,
    });
    this.#audits = new Counter({
      name: "kvatlas_router_tokenizer_audits_total",
      help: "Prompts that a replica encoded as well, to compare: agree, disagree (the pool goes over to remote), unknown (no replica answered).",
      labelNames: ["pool", "result"],
      registers,
    });
    this.#threadFailures = new Counter({
      name: "kvatlas_router_tokenizer_thread_failures_total",
      help: "Requests that were routed by load because the thread that encoded them ended.",
      labelNames: ["pool"],
      registers,
    });
    this.#threadsEnded = new Counter({
      name: "kvatlas_router_tokenizer_threads_ended_total",
      help: "Threads that ended by themselves, whether they were at a request or not; each is replaced.",
      labelNames: ["pool"],
      registers,
    });
  }

  source(pool: string, source: "local" | "remote"): void {
    this.#source.set({ pool, source }, 1);
    this.#source.set({ pool, source: source === "local" ? "remote" : "local" }, 0);
  }

  audited(pool: string, result: AuditResult): void {
    this.#audits.inc({ pool, result });
  }

  threadEnded(pool: string): void {
    this.#threadsEnded.inc({ pool });
  }

  threadFailed(pool: string): void {
    this.#threadFailures.inc({ pool });
  }
}
