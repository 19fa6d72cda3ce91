import { Counter, Gauge, type Registry } from "prom-client";
import type { BodyMode } from "./body-modes.ts";

/** Metrics of the endpoint picker, besides those that every request counts in. Label values are bounded. */
export class ExtProcMetrics {
  readonly #streams: Counter<"body_mode">;
  readonly #refused: Counter<"status">;
  readonly #servedElsewhere: Counter<"known">;
  readonly #certificateExpiry: Gauge<"source">;
  readonly #certificateChanges: Counter<"result">;

  constructor(registry: Registry, openStreams: () => number) {
    const registers = [registry];
    this.#streams = new Counter({
      name: "kvatlas_extproc_streams_total",
      help: "Requests that gateways asked about, by how they hand over the body: none, streamed, buffered, duplex.",
      labelNames: ["body_mode"],
      registers,
    });
    this.#refused = new Counter({
      name: "kvatlas_extproc_refused_total",
      help: "Requests that gateways were told to answer with an error, by its status.",
      labelNames: ["status"],
      registers,
    });
    this.#servedElsewhere = new Counter({
      name: "kvatlas_extproc_served_elsewhere_total",
      help: "Answers that came from another endpoint than the picked one, as gateways report it; known: whether it is one of the pool's.",
      labelNames: ["known"],
      registers,
    });
    this.#certificateExpiry = new Gauge({
      name: "kvatlas_extproc_certificate_expiry_timestamp_seconds",
      help: "When the certificate in force expires, in seconds since the epoch, by where it is from: self-signed, files.",
      labelNames: ["source"],
      registers,
    });
    this.#certificateChanges = new Counter({
      name: "kvatlas_extproc_certificate_changes_total",
      help: "Changes of the certificate's files, by result: used, or refused (the one before stays in force).",
      labelNames: ["result"],
      registers,
    });
    new Gauge({
      name: "kvatlas_extproc_open_streams",
      help: "Requests that gateways ask about at the moment, up to the end of their answers.",
      registers,
      collect() {
        this.set(openStreams());
      },
    });
  }

  opened(mode: BodyMode): void {
    this.#streams.inc({ body_mode: mode });
  }

  refused(status: number): void {
    this.#refused.inc({ status });
  }

  certificateInForce(source: "self-signed" | "files", expires: Date): void {
    this.#certificateExpiry.set({ source }, expires.getTime() / 1_000);
  }

  certificateChanged(isUsed: boolean): void {
    this.#certificateChanges.inc({ result: isUsed ? "used" : "refused" });
  }

  servedElsewhere(isKnown: boolean): void {
    this.#servedElsewhere.inc({ known: String(isKnown) });
  }
}
