import type { RouterConfig } from "@kvatlas/shared/config/schema";
import { isKvatlasError } from "@kvatlas/shared/errors";
import { within } from "../deadline.ts";
import type { Decider } from "../routing/decide.ts";
import type { Decision } from "../routing/decision.ts";
import type { DecideInput } from "../routing/request-work.ts";
import { type TokenizeTimes, tokenizeDeadlineMs } from "../routing/tokenize-prompt.ts";

type TimedConfig = TokenizeTimes & { readonly extProc: Pick<RouterConfig["extProc"], "pickTimeoutMs"> };

/**
 * Decides within a time of its own: gateways do not bound how long a picker takes in full duplex, and would wait for ever. Each step of a decision has its
 * deadline; this one is for what nobody has thought of. Past it, load decides.
 */
export function createTimedDecide(decider: Pick<Decider, "decide">, config: TimedConfig): (input: DecideInput) => Promise<Decision> {
  return async (asked) => {
    // A gateway sends a request to one replica: prompt and answer are not to be divided between two.
    const input = { ...asked, request: { ...asked.request, isDivisible: false } };
    const deciding = decider.decide(input);
    const limitMs = config.extProc.pickTimeoutMs + tokenizeDeadlineMs(input.request, config, true);
    try {
      return await within(limitMs, "picking an endpoint", () => deciding);
    } catch (error) {
      if (!isKvatlasError(error, "KVATLAS_DEADLINE_EXCEEDED")) throw error;
      // When it comes after all, nobody goes there.
      deciding.then(
        (late) => late.placement?.failed(),
        () => {},
      );
      return decider.decide({ ...input, byLoad: "pick-timeout" });
    }
  };
}
