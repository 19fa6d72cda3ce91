import { isKvatlasError } from "@kvatlas/shared/errors";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import { within } from "../../deadline.ts";
import type { Contest } from "../contest.ts";
import type { KeyedQuery, PromptKeys } from "../prompt-keys.ts";
import type { GivenUp, RequestWork } from "../request-work.ts";
import { type Residency, residencyOf } from "../residency.ts";
import type { VerifyLookup } from "../verify-lookup.ts";
import { type Mode, type Ruling, reasonOf } from "./mode.ts";

export interface PreciseModeDeps {
  readonly contest: Contest;
  readonly index: Pick<BlockIndex, "lookup">;
  readonly keys: PromptKeys;
  readonly verify: VerifyLookup;
}

export interface PreciseModeOptions {
  readonly lookup: "probe" | "exact";
  readonly lookupTimeoutMs: number;
}

/** Routes by what the replicas hold, as their events say. */
export class PreciseMode implements Mode {
  readonly #deps: PreciseModeDeps;
  readonly #options: PreciseModeOptions;

  constructor(deps: PreciseModeDeps, options: PreciseModeOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  async rule(work: RequestWork): Promise<Ruling | GivenUp> {
    const { contest, keys } = this.#deps;
    const tokenized = await work.tokenized();
    if (!("prompts" in tokenized)) return tokenized;
    const { route, fleet, request } = work.input;
    const tokenizedAt = work.now();
    const queries = keys.queries({
      prompts: tokenized.prompts,
      endpoints: route.endpoints,
      scopes: fleet.scopes,
      lora: route.lora,
      cacheSalt: request.cacheSalt,
    });
    const keyedAt = work.now();
    work.timed("keysMs", keyedAt - tokenizedAt);
    if (queries.length === 0) {
      const known = route.endpoints.some((endpoint) => endpoint.scope !== null && fleet.scopes.has(endpoint.scope));
      return { reason: known ? "short-prompt" : "not-indexed" };
    }
    const [found, load] = await Promise.all([this.#lookup(queries), contest.readLoad(work)]);
    work.timed("lookupMs", work.now() - keyedAt);
    work.load = load;
    if ("reason" in found) return found;
    const ranking = contest.rank(work, contest.candidates(work, load, found), work.promptTokens ?? 0, found.partingKey ?? work.tieKey);
    return { mode: "precise", reason: reasonOf(ranking), ranking, residency: found };
  }

  async #lookup(queries: readonly KeyedQuery[]): Promise<Residency | GivenUp> {
    const { index, verify } = this.#deps;
    const { lookup: method, lookupTimeoutMs } = this.#options;
    const plain = queries.map((keyed) => keyed.query);
    try {
      const found = await within(lookupTimeoutMs, "the index lookup", async (signal) => index.lookup(plain, { method, signal: signal() }));
      if (method === "probe") verify.maybe(plain, found);
      return residencyOf(queries, found);
    } catch (error) {
      return { reason: isKvatlasError(error, "KVATLAS_DEADLINE_EXCEEDED") ? "lookup-timeout" : "index-unavailable", error };
    }
  }
}
