import type { Clock } from "@kvatlas/shared/clock";
import type { ReplicaTarget } from "../discovery/replica-target.ts";

/** A publisher that is not connected for longer is worth a finding. */
const connectGraceMs = 5_000;
/** Prompts of so many tokens leave full blocks behind, whatever the block size. */
const silentAfterPromptTokens = 16_384;

/** Tells why no events come from an endpoint: nobody to dial, no connection, or an engine that works and publishes nothing. */
export class SilenceWatch {
  readonly #clock: Clock;
  readonly #address: string;
  /** Monotonic ms since which the publisher is not connected; null while it is, and where it is not for us to connect. */
  #disconnectedSince: number | null;
  /** Where the publisher is dialled; null: nowhere yet, or it dials us. */
  #source: string | null;
  #promptTokens: number | null = null;
  #isReachable = true;

  constructor(clock: Clock, target: Pick<ReplicaTarget, "address" | "events" | "seeksEvents">) {
    this.#clock = clock;
    this.#address = target.address;
    this.#source = target.events;
    this.#disconnectedSince = target.events === null && !target.seeksEvents ? null : clock.monotonic();
  }

  connected(): void {
    this.#disconnectedSince = null;
  }

  disconnected(): void {
    this.#disconnectedSince ??= this.#clock.monotonic();
  }

  /** The replica has said where it publishes (null: it does not say), and is dialled there. */
  found(source: string | null): void {
    if (source !== this.#source) this.disconnected();
    this.#source = source;
  }

  /** Whether its HTTP server answers: one that does not cannot say where it publishes, and needs time to when it does again. */
  reached(isReachable: boolean): void {
    if (isReachable && !this.#isReachable && this.#disconnectedSince !== null) this.#disconnectedSince = this.#clock.monotonic();
    this.#isReachable = isReachable;
  }

  /** Prompt tokens that the engine has processed by its own count; null: it does not tell this time. */
  worked(promptTokens: number | null): void {
    this.#promptTokens = promptTokens ?? this.#promptTokens;
  }

  /** The reason as a sentence; null while all is well, and where that nothing answers at all is the reason. */
  reason(hasHeard: boolean): string | null {
    const since = this.#disconnectedSince;
    if (since !== null && this.#source === null && !this.#isReachable) return null;
    if (since !== null && this.#clock.monotonic() - since > connectGraceMs) {
      return this.#source === null
        ? `http://${this.#address}/kv_event_sources names no publisher (vLLM 0.31 and on do): configure events, or start the engine with --kv-events-config.`
        : `No connection to the publisher at ${this.#source}: is the engine started with kv events (--kv-events-config), and bound to this port?`;
    }
    return since === null && !hasHeard && (this.#promptTokens ?? 0) >= silentAfterPromptTokens
      ? `The engine has processed ${this.#promptTokens} prompt tokens and published nothing: is enable_kv_cache_events true in --kv-events-config, and the port its own?`
      : null;
  }
}
