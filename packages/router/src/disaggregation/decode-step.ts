import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { ForwardInput, RetryReason } from "../proxy/forward.ts";
import type { HandedOver } from "./hand-over.ts";

/**
 * What is special about forwarding the second step of a divided request. Blocks are handed over once: an endpoint that was given them and failed may have
 * fetched them, so that the next one (itself, where there is no other) gets the request as it came, and computes the whole. The same goes for an endpoint that could not load them, which
 * engines answer with 500.
 */
export class DecodeStep {
  #isHanded: boolean;
  #wasSentWhole = false;
  #body: Buffer | null;
  #whole: Buffer | null;
  readonly #prefill: FleetEndpoint | null;

  /** @param whole - the request as it came */
  constructor(handed: HandedOver, whole: Buffer) {
    this.#prefill = handed.prefill;
    this.#isHanded = handed.body !== null;
    this.#body = handed.body;
    this.#whole = whole;
  }

  /** The endpoint that has computed the prompt of what is being sent; null when it is sent as a whole. */
  get prefill(): FleetEndpoint | null {
    return this.#isHanded ? this.#prefill : null;
  }

  /** For the first attempt; its other holder lets go of it with the first byte. */
  firstBody(): Buffer | null {
    const body = this.#body ?? this.#whole;
    this.#body = null;
    return body;
  }

  get forwarding(): Pick<ForwardInput, "bodyAfter" | "isRetried" | "mayRepeat"> {
    return {
      mayRepeat: () => !this.#wasSentWhole,
      bodyAfter: (why: RetryReason) => {
        if (!this.#isHanded || why === "connect") return null;
        this.#isHanded = false;
        return this.#whole;
      },
      isRetried: (status) => status === 503 || (this.#isHanded && status === 500),
    };
  }

  /** An attempt begins. */
  sending(): void {
    this.#wasSentWhole = !this.#isHanded;
  }

  /** The answer has begun: no other attempt will need a body. */
  begun(): void {
    this.#whole = null;
  }
}
