import { hasMedia, parseRequest } from "@kvatlas/router/request/parse-request";
import type { KeyExtras } from "@kvatlas/shared/hashing/block-hasher";
import type { Exchange } from "./engine-run.ts";
import { isJson } from "./recording-line.ts";
import { type ResponseFacts, responseFacts } from "./response-facts.ts";

/** A request whose cache hit the engine reported and whose keys can be computed. */
export interface CheckablePrompt {
  readonly tokenIds: ArrayLike<number>;
  readonly extras: KeyExtras;
  readonly cachedTokens: number;
}

export type PromptFacts = CheckablePrompt | { readonly skip: string };

/** What is known about the engine of a request. */
export interface EngineFacts {
  /** Adapter name -> path. */
  readonly loraPaths: ReadonlyMap<string, string>;
  /** Whether a request's model name is an adapter's. */
  readonly isAdapter: (model: string) => boolean;
  /** Null details mean no hit, because other answers of this engine have them or its arguments ask for them. */
  readonly reportsCachedTokens: boolean;
}

/** Reads what a recorded request says about its prompt, or why it cannot be checked. Parsing is the router's own. */
export function promptFacts(
  exchange: Exchange,
  facts: ResponseFacts | null,
  engine: EngineFacts,
  encoded: readonly ArrayLike<number>[] | null,
): PromptFacts {
  const { request, response } = exchange;
  if (response === null || facts === null) return skip("no response");
  if (response.status < 200 || response.status > 299) return skip("failed response");
  const parsed = parseRequest(request.path, Buffer.from(request.bodyText, "utf8"));
  const { prompt } = parsed;
  if (prompt.form === "none" && prompt.why !== "not-a-prompt") return skip(reasons[prompt.why]);
  if (prompt.form === "text" && hasMedia(prompt)) return skip(reasons.media);
  if (request.body.use_beam_search === true) return skip("beam search");
  const given = prompt.form === "ids" ? prompt.prompts.map(({ tokenIds: ids }) => ids) : null;
  const media = prompt.form === "ids" ? prompt.prompts[0]?.media : undefined;
  const ids = facts.promptTokenIds ?? given ?? encoded;
  if (ids !== null && ids.length > 1) return skip("several prompts in one request");
  if (!facts.hasUsage) return skip("no usage");
  const [tokenIds] = ids ?? [];
  if (tokenIds === undefined) return skip("prompt token ids not known");
  if (facts.promptTokens !== null && facts.promptTokens !== tokenIds.length) return skip("prompt token ids do not match the usage");
  if (facts.cachedTokens === null && !engine.reportsCachedTokens) return skip("engine reports no cached tokens");
  const cachedTokens = facts.cachedTokens ?? 0;
  const { model, cacheSalt } = parsed;
  const path = model === null ? undefined : engine.loraPaths.get(model);
  const isAdapter = model !== null && engine.isAdapter(model);
  return {
    tokenIds,
    cachedTokens,
    extras: {
      ...(isAdapter ? { lora: { name: model, ...(path === undefined ? {} : { path }) } } : {}),
      ...(cacheSalt === null ? {} : { cacheSalt }),
      ...(media === undefined ? {} : { media }),
    },
  };
}

/**
 * Token ids of each prompt of a request that the engine may have computed, whether or not its hit can be checked; none for one that it refused,
 * null when they are not known.
 */
export function promptIdsOf(
  { request, response }: Exchange,
  facts: ResponseFacts | null,
  encoded: readonly ArrayLike<number>[] | null,
): readonly ArrayLike<number>[] | null {
  if (response !== null && response.status >= 400 && response.status < 500) return [];
  const { prompt } = parseRequest(request.path, Buffer.from(request.bodyText, "utf8"));
  if (hasMedia(prompt) || (prompt.form === "none" && (prompt.why === "media" || prompt.why === "prompt-embeds"))) return null;
  return facts?.promptTokenIds ?? (prompt.form === "ids" ? prompt.prompts.map(({ tokenIds }) => tokenIds) : encoded);
}

const reasons = {
  media: "media in the request",
  "skips-cache": "request does not read the cache",
  "prompt-embeds": "prompt embeddings",
} as const;

function skip(reason: string): { readonly skip: string } {
  return { skip: reason };
}

/** Completions that one prompt asks for. */
export function choicesPerPrompt({ request: { body } }: Exchange): number {
  const count = (value: unknown): number => (typeof value === "number" && value > 1 ? value : 1);
  const n = count(body.n);
  if (n > 1) return n;
  return isJson(body.sampling_params) ? count(body.sampling_params.n) : 1;
}

export function factsOf(exchange: Exchange): ResponseFacts | null {
  return exchange.response === null ? null : responseFacts(exchange.response, choicesPerPrompt(exchange));
}
