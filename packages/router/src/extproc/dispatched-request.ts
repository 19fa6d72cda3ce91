import type { Clock } from "@kvatlas/shared/clock";
import type { Logger } from "@kvatlas/shared/logger";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { InflightEntry, InflightTracker } from "../fleet/inflight-tracker.ts";
import type { OutlierEjection } from "../fleet/outlier-ejection.ts";
import { handledLine } from "../handling/handled-line.ts";
import type { AskedRequest, PreparedRequest } from "../handling/prepare-request.ts";
import { beginAt } from "../handling/sent-request.ts";
import type { RouterMetrics } from "../metrics.ts";
import { cachedTokensIn } from "../quality/cached-tokens.ts";
import type { DecisionQuality } from "../quality/decision-quality.ts";
import { isSameAddress } from "./endpoint-hints.ts";
import type { ExtProcMetrics } from "./extproc-metrics.ts";

export interface DispatchDeps {
  readonly inflight: Pick<InflightTracker, "begin">;
  readonly ejection: Pick<OutlierEjection, "failed" | "succeeded">;
  readonly quality: Pick<DecisionQuality, "answered">;
  readonly metrics: Pick<RouterMetrics, "firstByte" | "finished">;
  readonly extProcMetrics: Pick<ExtProcMetrics, "servedElsewhere">;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** How a request ended, as far as its gateway lets one see: `handed-over`: it shows nothing of the answer. */
export type DispatchOutcome = "completed" | "client-gone" | "handed-over";

export interface Dispatch {
  readonly asked: AskedRequest;
  /** As the client named it, or the pool's. */
  readonly model: string | null;
  readonly prepared: Pick<PreparedRequest, "decision" | "resolved">;
  readonly bodyBytes: number;
  /** Monotonic, when the request's head came. */
  readonly startedAt: number;
}

/** Accounts for a request that a gateway has been told where to send: what is under way, what became of it, and how good the prediction was. */
export class DispatchedRequest {
  readonly #deps: DispatchDeps;
  readonly #dispatch: Dispatch;
  #endpoint: FleetEndpoint;
  #entry: InflightEntry;
  #status: number | null = null;
  #firstByteMs: number | null = null;
  #lastPiece: Buffer | null = null;
  #pieceBefore: Buffer | null = null;
  #ended = false;

  constructor(deps: DispatchDeps, dispatch: Dispatch) {
    this.#deps = deps;
    this.#dispatch = dispatch;
    this.#endpoint = dispatch.prepared.decision.endpoint;
    this.#entry = this.#begin();
  }

  get endpoint(): FleetEndpoint {
    return this.#endpoint;
  }

  /** The gateway sent the request elsewhere: it tried another of the endpoints, or followed a rule of its own. */
  servedBy(address: string): void {
    if (this.#ended || isSameAddress(address, this.#endpoint.address)) return;
    const { ranking } = this.#dispatch.prepared.decision;
    const other = ranking.find(({ endpoint }) => isSameAddress(endpoint.address, address))?.endpoint;
    this.#deps.extProcMetrics.servedElsewhere(other !== undefined);
    // That the first one failed is the likeliest reason; an endpoint that is none of ours is on nobody's ledger.
    this.#deps.ejection.failed(this.#endpoint.id);
    this.#entry.end();
    if (other === undefined) return;
    this.#endpoint = other;
    this.#entry = this.#begin();
  }

  /** @param fromGateway - the gateway made the answer itself, as it got none */
  answered(status: number | null, fromGateway: boolean): void {
    this.#status = status;
    if (fromGateway) this.#deps.ejection.failed(this.#endpoint.id);
    else this.#deps.ejection.succeeded(this.#endpoint.id);
  }

  /** A piece of the answer; its last two are kept for what engines say at the end. */
  piece(chunk: Buffer): void {
    if (this.#ended) return;
    if (this.#firstByteMs === null) this.begun();
    else this.#entry.produced(1);
    this.#pieceBefore = this.#lastPiece;
    this.#lastPiece = chunk;
  }

  /** The answer has begun, as far as can be seen. */
  begun(): void {
    if (this.#ended || this.#firstByteMs !== null) return;
    const { clock, metrics } = this.#deps;
    this.#firstByteMs = clock.monotonic() - this.#dispatch.startedAt;
    metrics.firstByte(this.#dispatch.prepared.decision.mode, this.#firstByteMs);
    this.#entry.firstByte();
  }

  /** Only the first call counts. */
  end(outcome: DispatchOutcome): void {
    if (this.#ended) return;
    this.#ended = true;
    const { prepared, asked, model, startedAt } = this.#dispatch;
    const { decision, resolved } = prepared;
    const { quality, metrics, logger, clock } = this.#deps;
    // Whether the replica has computed it is not known: it most likely will.
    if (outcome === "handed-over") this.#entry.firstByte();
    this.#entry.end();
    if (this.#status !== null && this.#status >= 400) decision.placement?.failed();
    else if (outcome === "completed") {
      const pieces = [this.#pieceBefore, this.#lastPiece].filter((piece) => piece !== null);
      quality.answered(decision, this.#endpoint.id, cachedTokensIn(pieces));
    }
    metrics.finished(outcome === "client-gone" ? outcome : "completed", this.#status);
    logger.info(
      handledLine(
        { asked, model, resolved, decision, endpoint: this.#endpoint },
        { status: this.#status, outcome, firstByteMs: this.#firstByteMs, totalMs: clock.monotonic() - startedAt, gateway: true },
      ),
      "request handled",
    );
    this.#lastPiece = null;
    this.#pieceBefore = null;
  }

  #begin(): InflightEntry {
    const { prepared, bodyBytes } = this.#dispatch;
    return beginAt(this.#deps.inflight, prepared.decision, this.#endpoint, bodyBytes);
  }
}
