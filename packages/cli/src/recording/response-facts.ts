import { isJson, type Json, type ResponseLine } from "./recording-line.ts";

/** What an engine's answer says about its prompt. */
export interface ResponseFacts {
  readonly hasUsage: boolean;
  /** Tokens served from the prefix cache as the engine counts them; null when its usage has no place for them (older releases: null means none, too). */
  readonly cachedTokens: number | null;
  /** Of all prompts together; null without usage. */
  readonly promptTokens: number | null;
  /** Token ids of each prompt in order; null when the answer does not name them. */
  readonly promptTokenIds: readonly (readonly number[])[] | null;
}

/** Reads the answer of any generating endpoint, streamed or not (vLLM 0.10 to 0.33: chat, completions, generate, responses, messages). */
export function responseFacts(response: ResponseLine, choicesPerPrompt: number): ResponseFacts {
  const bodies = response.sse === null ? (isJson(response.body) ? [response.body] : []) : sseObjects(response.sse);
  let usage: Json | null = null;
  const byIndex = new Map<number, readonly number[]>();
  for (const body of bodies) {
    usage = usageOf(body) ?? usage;
    const whole = idsOf(body.prompt_token_ids);
    if (whole !== null) byIndex.set(0, whole);
    for (const choice of Array.isArray(body.choices) ? body.choices : []) {
      if (!isJson(choice) || typeof choice.index !== "number") continue;
      const ids = idsOf(choice.prompt_token_ids);
      if (ids !== null) byIndex.set(Math.floor(choice.index / choicesPerPrompt), ids);
    }
  }
  const promptTokenIds = [...byIndex].sort(([a], [b]) => a - b).map(([, ids]) => ids);
  const cachedTokens = usage === null ? null : cachedTokensOf(usage);
  // Anthropic counts the cached tokens apart from the others.
  const apart = usage !== null && typeof usage.cache_read_input_tokens === "number";
  const counted = usage === null ? null : numberOr(usage.prompt_tokens, numberOr(usage.input_tokens, null));
  return {
    hasUsage: usage !== null,
    cachedTokens,
    promptTokens:
      counted === null || !apart ? counted : counted + (cachedTokens ?? 0) + (numberOr(usage?.cache_creation_input_tokens, 0) ?? 0),
    promptTokenIds: promptTokenIds.length === 0 ? null : promptTokenIds,
  };
}

function usageOf(body: Json): Json | null {
  for (const holder of [body, body.response, body.message]) if (isJson(holder) && isJson(holder.usage)) return holder.usage;
  return null;
}

function cachedTokensOf(usage: Json): number | null {
  for (const details of [usage.prompt_tokens_details, usage.input_tokens_details]) {
    if (isJson(details) && typeof details.cached_tokens === "number") return details.cached_tokens;
  }
  return numberOr(usage.cache_read_input_tokens, null);
}

function numberOr<T>(value: unknown, otherwise: T): number | T {
  return typeof value === "number" ? value : otherwise;
}

function idsOf(value: unknown): readonly number[] | null {
  if (!Array.isArray(value) || value.length === 0) return null;
  return value.every((id) => typeof id === "number" && id >>> 0 === id) ? value : null;
}

/** JSON objects of the `data:` fields of a stream; `[DONE]` and what is no object is passed over. */
function sseObjects(sse: string): Json[] {
  const objects: Json[] = [];
  for (const line of sse.split(/\r\n|\n|\r/)) {
    if (!line.startsWith("data:")) continue;
    try {
      const value: unknown = JSON.parse(line.slice(5));
      if (isJson(value)) objects.push(value);
    } catch {
      // [DONE], or a stream that was cut off.
    }
  }
  return objects;
}
