import { isDeepStrictEqual } from "node:util";
import { type HttpLine, isJson, type Json, type RequestLine } from "./recording-line.ts";

/** What an engine said a prompt is, without generating: `/render` (vLLM 0.15+) and `/tokenize` answers. */
export interface RenderedPrompt {
  readonly http: HttpLine;
  readonly request: Json;
  /** One list per prompt. */
  readonly tokenIds: readonly (readonly number[])[];
}

/** Fields that change the answer but not the prompt. */
const generationFields = new Set([
  ...[
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "n",
    "stop",
  ],
  ...["stream", "stream_options", "return_token_ids", "logprobs", "top_logprobs", "ignore_eos", "cache_salt", "session_id", "user"],
]);

export function renderedPrompts(lines: readonly HttpLine[]): readonly RenderedPrompt[] {
  const rendered: RenderedPrompt[] = [];
  for (const http of lines) {
    if (http.status !== 200 || !isJson(http.request) || !(http.path.endsWith("/render") || http.path === "/tokenize")) continue;
    const bodies = Array.isArray(http.body) ? http.body : [http.body];
    const tokenIds = bodies.map((body) => (isJson(body) ? idsOf(body.token_ids ?? body.tokens) : null)).filter((ids) => ids !== null);
    if (tokenIds.length > 0 && tokenIds.length === bodies.length) rendered.push({ http, request: http.request, tokenIds });
  }
  return rendered;
}

/** Prompts of a request whose answer does not name them (`/v1/responses`, `/v1/messages`), when the same was rendered; null otherwise. */
export function renderedFor(request: RequestLine, rendered: readonly RenderedPrompt[]): readonly (readonly number[])[] | null {
  const asked = promptFields(request.body);
  const found = rendered.find(
    ({ http, request: other }) => http.path === `${request.path}/render` && isDeepStrictEqual(promptFields(other), asked),
  );
  return found?.tokenIds ?? null;
}

function promptFields(body: Json): Json {
  return Object.fromEntries(Object.entries(body).filter(([name]) => !generationFields.has(name)));
}

function idsOf(value: unknown): readonly number[] | null {
  return Array.isArray(value) && value.length > 0 && value.every((id) => typeof id === "number" && id >>> 0 === id) ? value : null;
}
