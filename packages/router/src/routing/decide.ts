import type { Clock } from "@kvatlas/shared/clock";
import type { RouterConfig } from "@kvatlas/shared/config/schema";
import { isKvatlasError } from "@kvatlas/shared/errors";
import type { BlockIndex, PrefixMatches } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import type { EndpointId, Medium } from "@kvatlas/shared/types";
import { within } from "../deadline.ts";
import type { FleetEndpoint, FleetSnapshot, ModelRoute } from "../fleet/fleet.ts";
import type { InflightTracker } from "../fleet/inflight-tracker.ts";
import type { FleetLoad, LoadReader } from "../fleet/load-reader.ts";
import type { OutlierEjection } from "../fleet/outlier-ejection.ts";
import { HttpError } from "../request/openai-error.ts";
import type { ParsedRequest } from "../request/parse-request.ts";
import type { Candidate, Ranked } from "./candidate.ts";
import type { Decision, DecisionMode, DecisionReason } from "./decision.ts";
import { eligibleEndpoints, whyNone } from "./eligible.ts";
import { type OffPolicySources, rankOff } from "./off-policy.ts";
import type { Policy } from "./policies/policy.ts";
import type { KeyedQuery, PromptKeys } from "./prompt-keys.ts";
import { tieKeyOfText } from "./tie-key.ts";
import { tokenizeDeadlineMs, tokenizePrompt } from "./tokenize-prompt.ts";
import type { VerifyLookup } from "./verify-lookup.ts";

export interface DeciderDeps {
  readonly index: Pick<BlockIndex, "lookup">;
  readonly loads: LoadReader;
  readonly inflight: Pick<InflightTracker, "local">;
  readonly ejection: Pick<OutlierEjection, "isEjected">;
  readonly keys: PromptKeys;
  readonly verify: VerifyLookup;
  /** Of pools whose mode is not `off`. */
  readonly policy: Policy;
  readonly sources: OffPolicySources;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Called once per decision. */
  readonly onDecided: (decision: Decision) => void;
}

export interface DeciderOptions {
  readonly routerId: string;
  readonly config: RouterConfig;
}

export interface DecideInput {
  readonly request: ParsedRequest;
  readonly route: ModelRoute;
  readonly fleet: FleetSnapshot;
  /** Of the route's pool. */
  readonly encoder: PromptEncoder | null;
  /**
   * Answers as every other router would at this moment: by shared load alone, without this router's own ledger and bad experiences.
   *
   * @defaultValue false
   */
  readonly dryRun?: boolean;
  readonly requestId?: string;
  /** What the client names its session. */
  readonly session?: string | null;
}

/** What is held where, of the prompts of one request. */
interface Residency {
  readonly matches: ReadonlyMap<EndpointId, { tokens: number; blocks: number; readonly byMedium: Partial<Record<Medium, number>> }>;
  readonly blocks: number;
  /** Key of the first block that nobody holds (else the last one): where this prompt parts from those that share its beginning. */
  readonly partingKey: string | null;
}

const heldNowhere: Residency = { matches: new Map(), blocks: 0, partingKey: null };

/**
 * Picks the endpoint for a request. Tokenization and lookup have deadlines; past them, and whenever something fails, load alone decides, and
 * the decision says so. Rejects only with HttpError: 503 when no endpoint can take requests.
 */
export class Decider {
  readonly #deps: DeciderDeps;
  readonly #options: DeciderOptions;

  constructor(deps: DeciderDeps, options: DeciderOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  async decide(input: DecideInput): Promise<Decision> {
    const { clock } = this.#deps;
    const startedAt = clock.monotonic();
    const decision =
      input.route.pool.config.prefixCache.mode === "off"
        ? await this.#decideOff(input, startedAt)
        : await this.#decideByPrefix(input, startedAt);
    if (input.dryRun !== true) this.#deps.onDecided(decision);
    return decision;
  }

  async #decideOff(input: DecideInput, startedAt: number): Promise<Decision> {
    const policy = this.#options.config.offPolicy;
    const load = await this.#readLoad(input);
    const candidates = this.#candidates(input, load, heldNowhere);
    const ranking = rankOff(policy, candidates, tieKeyOfText(input.request.bodyText), this.#deps.sources);
    return this.#decision(input, startedAt, ranking, {
      mode: "off",
      reason: policy,
      promptTokens: null,
      residency: heldNowhere,
      timings: { tokenizeMs: null, keysMs: null, lookupMs: null },
    });
  }

  async #decideByPrefix(input: DecideInput, startedAt: number): Promise<Decision> {
    const { clock, keys } = this.#deps;
    const { config } = this.#options;
    const tokenized = await tokenizePrompt(input.request, input.encoder, tokenizeDeadlineMs(input.request, config));
    const tokenizedAt = clock.monotonic();
    const tokenizeMs = "prompts" in tokenized && !tokenized.tokenized ? null : tokenizedAt - startedAt;
    if (!("prompts" in tokenized)) {
      return this.#decideByLoad(input, startedAt, tokenized.reason, null, { tokenizeMs, keysMs: null, lookupMs: null }, tokenized.error);
    }
    const promptTokens = tokenized.prompts.reduce((sum, prompt) => sum + prompt.length, 0);
    const { endpoints, lora } = input.route;
    const { scopes } = input.fleet;
    const queries = keys.queries({ prompts: tokenized.prompts, endpoints, scopes, lora, cacheSalt: input.request.cacheSalt });
    const keyedAt = clock.monotonic();
    const keysMs = keyedAt - tokenizedAt;
    if (queries.length === 0) {
      const known = endpoints.some((endpoint) => endpoint.scope !== null && scopes.has(endpoint.scope));
      return this.#decideByLoad(input, startedAt, known ? "short-prompt" : "not-indexed", promptTokens, {
        tokenizeMs,
        keysMs,
        lookupMs: null,
      });
    }
    const [found, load] = await Promise.all([this.#lookup(queries), this.#readLoad(input)]);
    const lookupMs = clock.monotonic() - keyedAt;
    if (!("matches" in found)) {
      return this.#decideByLoad(input, startedAt, found.reason, promptTokens, { tokenizeMs, keysMs, lookupMs }, found.error, load);
    }
    const candidates = this.#candidates(input, load, found);
    const ranking = this.#rank(input, candidates, promptTokens, found.partingKey ?? tieKeyOfText(input.request.bodyText));
    const longest = candidates.reduce((most, candidate) => Math.max(most, candidate.matchedTokens), 0);
    const matched = ranking[0]?.matchedTokens ?? 0;
    const reason = longest === 0 ? "cold" : matched === longest ? "prefix" : "balanced";
    return this.#decision(input, startedAt, ranking, {
      mode: "precise",
      reason,
      promptTokens,
      residency: found,
      timings: { tokenizeMs, keysMs, lookupMs },
    });
  }

  async #decideByLoad(
    input: DecideInput,
    startedAt: number,
    reason: DecisionReason,
    promptTokens: number | null,
    timings: Omit<Decision["timings"], "totalMs">,
    error?: unknown,
    load?: FleetLoad,
  ): Promise<Decision> {
    if (error !== undefined) this.#deps.logger.debug({ requestId: input.requestId, reason, err: error }, "routed by load");
    const candidates = this.#candidates(input, load ?? (await this.#readLoad(input)), heldNowhere);
    const ranking = this.#rank(input, candidates, 0, tieKeyOfText(input.request.bodyText));
    return this.#decision(input, startedAt, ranking, { mode: "load", reason, promptTokens, residency: heldNowhere, timings });
  }

  async #lookup(queries: readonly KeyedQuery[]): Promise<Residency | { readonly reason: DecisionReason; readonly error: unknown }> {
    const { index, verify } = this.#deps;
    const { lookup: method, lookupTimeoutMs } = this.#options.config;
    const plain = queries.map((keyed) => keyed.query);
    try {
      const found = await within(lookupTimeoutMs, "the index lookup", async (signal) => index.lookup(plain, { method, signal: signal() }));
      if (method === "probe") verify.maybe(plain, found);
      return residencyOf(queries, found);
    } catch (error) {
      return { reason: isKvatlasError(error, "KVATLAS_DEADLINE_EXCEEDED") ? "lookup-timeout" : "index-unavailable", error };
    }
  }

  /** Never rejects: the last good reading stands in. */
  async #readLoad(input: DecideInput): Promise<FleetLoad> {
    const { loads, logger } = this.#deps;
    const { routers } = input.fleet;
    const asked = input.dryRun === true ? routers : routers.filter((router) => router !== this.#options.routerId);
    try {
      return await within(this.#options.config.lookupTimeoutMs, "reading the load", async () => loads.read(asked));
    } catch (error) {
      logger.debug({ requestId: input.requestId, err: error }, "load cannot be read: the last reading is used");
      return loads.last;
    }
  }

  #candidates(input: DecideInput, load: FleetLoad, residency: Residency): readonly Candidate[] {
    const { loads, inflight, ejection } = this.#deps;
    const dryRun = input.dryRun === true;
    const isSleeping = (endpoint: FleetEndpoint) => loads.isSleeping(load, endpoint.id);
    const isEjected = (endpoint: FleetEndpoint) => !dryRun && ejection.isEjected(endpoint.id);
    const endpoints = eligibleEndpoints({ endpoints: input.route.endpoints, isSleeping, isEjected });
    if (endpoints.length === 0) throw new HttpError(503, whyNone(input.route.endpoints), { retryAfterSeconds: 1 });
    return endpoints.map((endpoint) => ({
      endpoint,
      matchedTokens: residency.matches.get(endpoint.id)?.tokens ?? 0,
      byMedium: residency.matches.get(endpoint.id)?.byMedium ?? {},
      load: loads.of(load, endpoint.id, dryRun ? null : inflight.local(endpoint.id)),
    }));
  }

  #rank(input: DecideInput, candidates: readonly Candidate[], promptTokens: number, tieKey: string): readonly Ranked[] {
    return this.#deps.policy.rank(candidates, { promptTokens, tieKey, lora: input.route.lora, session: input.session ?? null });
  }

  #decision(
    input: DecideInput,
    startedAt: number,
    ranking: readonly Ranked[],
    found: {
      readonly mode: DecisionMode;
      readonly reason: DecisionReason;
      readonly promptTokens: number | null;
      readonly residency: Residency;
      readonly timings: Omit<Decision["timings"], "totalMs">;
    },
  ): Decision {
    const [picked] = ranking;
    if (picked === undefined) throw new HttpError(503, whyNone(input.route.endpoints), { retryAfterSeconds: 1 });
    return {
      endpoint: picked.endpoint,
      mode: found.mode,
      reason: found.reason,
      promptTokens: found.promptTokens,
      matchedTokens: picked.matchedTokens,
      blocks: found.residency.blocks,
      matchedBlocks: found.residency.matches.get(picked.endpoint.id)?.blocks ?? 0,
      ranking,
      timings: { ...found.timings, totalMs: this.#deps.clock.monotonic() - startedAt },
    };
  }
}

/** Sums what each endpoint holds over the queries that are computed its way. */
function residencyOf(queries: readonly KeyedQuery[], found: readonly PrefixMatches[]): Residency {
  const matches = new Map<EndpointId, { tokens: number; blocks: number; byMedium: Partial<Record<Medium, number>> }>();
  let partingKey: string | null = null;
  for (let i = 0; i < queries.length; i++) {
    const keyed = queries[i];
    const held = found[i];
    if (keyed === undefined || held === undefined) continue;
    const { keys } = keyed.query;
    let longest = 0;
    for (const [endpoint, match] of held) {
      if (!keyed.endpoints.has(endpoint)) continue;
      longest = Math.max(longest, match.blocks);
      let sum = matches.get(endpoint);
      if (sum === undefined) {
        sum = { tokens: 0, blocks: 0, byMedium: {} };
        matches.set(endpoint, sum);
      }
      sum.blocks += match.blocks;
      sum.tokens += match.blocks * keyed.blockSizeTokens;
      for (const medium in match.byMedium) {
        const tokens = (match.byMedium[medium as Medium] ?? 0) * keyed.blockSizeTokens;
        sum.byMedium[medium as Medium] = (sum.byMedium[medium as Medium] ?? 0) + tokens;
      }
    }
    if (i === 0) partingKey = keys[Math.min(longest, keys.length - 1)] ?? null;
  }
  return { matches, blocks: totalBlocks(queries), partingKey };
}

/** Blocks of one way of computing keys: with several ways each prompt occurs once per way. */
function totalBlocks(queries: readonly KeyedQuery[]): number {
  const first = queries[0];
  if (first === undefined) return 0;
  return queries.filter((keyed) => keyed.endpoints === first.endpoints).reduce((sum, keyed) => sum + keyed.query.keys.length, 0);
}
