import { isKvatlasError } from "@kvatlas/shared/errors";
import type { BlockIndex, PrefixMatches } from "@kvatlas/shared/index/block-index";
import { within } from "../../deadline.ts";
import type { PrefixEstimator } from "../../estimation/prefix-estimator.ts";
import type { FleetEndpoint } from "../../fleet/fleet.ts";
import type { MarkedQuery, Speculation } from "../../speculation/speculation.ts";
import type { Contest } from "../contest.ts";
import type { DecisionReason } from "../decision.ts";
import type { LookupGate } from "../lookup-gate.ts";
import type { KeyedQuery, PromptKeys } from "../prompt-keys.ts";
import type { GivenUp, RequestWork } from "../request-work.ts";
import { type Held, type Residency, residencyOf } from "../residency.ts";
import type { VerifyLookup } from "../verify-lookup.ts";
import { type Mode, type Ruling, reasonOf } from "./mode.ts";

export interface PreciseModeDeps {
  readonly contest: Contest;
  readonly index: Pick<BlockIndex, "lookup">;
  readonly keys: PromptKeys;
  readonly verify: VerifyLookup;
  readonly gate: LookupGate;
  readonly estimator: PrefixEstimator;
  readonly speculation: Speculation;
}

export interface PreciseModeOptions {
  readonly lookup: "probe" | "exact";
  readonly lookupTimeoutMs: number;
}

/**
 * Routes by what the replicas hold, as their events say; ahead of the events by what was just sent there; and of replicas whose events do not arrive, by what
 * was sent there before.
 */
export class PreciseMode implements Mode {
  readonly #deps: PreciseModeDeps;
  readonly #options: PreciseModeOptions;

  constructor(deps: PreciseModeDeps, options: PreciseModeOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  async rule(work: RequestWork): Promise<Ruling | GivenUp> {
    const { contest, keys, estimator, speculation } = this.#deps;
    const tokenized = await work.tokenized();
    if (!("prompts" in tokenized)) return tokenized;
    const { route, fleet, request } = work.input;
    const config = route.pool.config.prefixCache.estimate;
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
      const known = route.endpoints.some((endpoint) => isIndexed(work, endpoint));
      return { reason: known ? "short-prompt" : "not-indexed" };
    }
    const blind = route.endpoints.filter((endpoint) => !isIndexed(work, endpoint) || endpoint.status === "silent");
    const chains = estimator.chainsOfKeys(queries, config, work.promptTokens ?? 0, blind.length > 0);
    // This router's own memory is what is left where the index cannot be asked.
    work.chains = chains === null ? null : { ...chains, isShared: false };
    const resting = this.#deps.gate.shut();
    if (resting !== null) return resting;

    const marked = speculation.isOn ? speculation.queriesOf(queries) : [];
    const [found, shared, load, estimated] = await Promise.all([
      this.#lookup(queries),
      speculation.isOn ? speculation.shared(marked) : [],
      contest.readLoad(work),
      blind.length > 0 && chains !== null ? estimator.estimate(work, chains, config) : null,
    ]);
    work.timed("lookupMs", work.now() - keyedAt);
    work.load = load;
    if ("reason" in found) return found;

    const marks = speculation.isOn ? speculation.blocksOf(marked, shared, work.isDryRun) : [];
    const exact = residencyOf(queries, found.matches, marks);
    const residency = estimated === null ? exact : withEstimates(exact, estimated, blind);
    const blindIds = new Set(blind.map(({ id }) => id));
    work.remember = (endpoint, isAgain) => {
      const isBlind = blindIds.has(endpoint.id);
      const takeBacks = [
        ...(chains === null ? [] : [estimator.remember({ ...chains, isShared: isBlind }, endpoint, config)]),
        ...(isBlind || !speculation.isOn ? [] : [this.#mark(marked, isAgain ? [] : found.matches, endpoint)]),
      ];
      return () => {
        for (const takeBack of takeBacks) takeBack();
      };
    };
    const candidates = contest.candidates(work, load, residency);
    const ranking = contest.rank(work, candidates, work.promptTokens ?? 0, residency.partingKey ?? work.tieKey);
    const picked = ranking[0];
    if (picked !== undefined && picked.matchedTokens > 0 && blindIds.has(picked.endpoint.id)) {
      const reason = picked.endpoint.status === "silent" ? "endpoint-silent" : "endpoint-not-indexed";
      return { mode: "estimated", reason, ranking, residency };
    }
    const reason: DecisionReason = reasonOf(ranking);
    const isSpeculated = reason === "prefix" && picked !== undefined && residency.speculated?.has(picked.endpoint.id) === true;
    return { mode: "precise", reason: isSpeculated ? "speculated" : reason, ranking, residency };
  }

  #mark(marked: readonly MarkedQuery[], found: readonly PrefixMatches[], endpoint: FleetEndpoint): () => void {
    return this.#deps.speculation.mark(marked, endpoint, (query) => found[query]?.get(endpoint.id)?.blocks ?? 0);
  }

  async #lookup(queries: readonly KeyedQuery[]): Promise<{ readonly matches: readonly PrefixMatches[] } | GivenUp> {
    const { index, verify, gate } = this.#deps;
    const { lookup: method, lookupTimeoutMs } = this.#options;
    const plain = queries.map((keyed) => keyed.query);
    try {
      const matches = await within(lookupTimeoutMs, "the index lookup", async (signal) =>
        index.lookup(plain, { method, signal: signal() }),
      );
      gate.succeeded();
      if (method === "probe") verify.maybe(plain, matches);
      return { matches };
    } catch (error) {
      const reason = isKvatlasError(error, "KVATLAS_DEADLINE_EXCEEDED") ? "lookup-timeout" : "index-unavailable";
      gate.failed({ reason });
      return { reason, error };
    }
  }
}

function isIndexed({ input }: RequestWork, endpoint: FleetEndpoint): boolean {
  return endpoint.scope !== null && input.fleet.scopes.has(endpoint.scope);
}

/** Of endpoints whose events do not arrive, the longer of what the index has left of them and of what was sent to them. */
function withEstimates(exact: Residency, estimated: Residency, blind: readonly FleetEndpoint[]): Residency {
  const matches = new Map<FleetEndpoint["id"], Held>(exact.matches);
  for (const { id } of blind) {
    const guess = estimated.matches.get(id);
    if (guess !== undefined && guess.tokens > (matches.get(id)?.tokens ?? 0)) matches.set(id, guess);
  }
  return { ...exact, matches };
}
