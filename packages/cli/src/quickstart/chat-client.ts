import { KvatlasError } from "@kvatlas/shared/errors";

export interface ChatMessage {
  readonly role: "user" | "assistant";
  readonly content: string;
}

/** One answered turn as its client sees it. */
export interface ChatTurn {
  readonly text: string;
  readonly finishReason: string | null;
  /** From the request sent to the first piece of text, milliseconds. */
  readonly ttftMs: number;
  /** `x-kvatlas-*` headers; null where the answer has none. */
  readonly endpoint: string | null;
  readonly mode: string | null;
  readonly matchedTokens: number;
  /** From the replica's own `usage`. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
}

export interface ChatRequest {
  readonly model: string;
  readonly messages: readonly ChatMessage[];
  readonly maxTokens: number;
}

/** The body sent by {@link chat}, which is also what has to be tokenized to predict it. */
export function chatBody(request: ChatRequest): string {
  return JSON.stringify({
    model: request.model,
    messages: request.messages,
    max_tokens: request.maxTokens,
    stream: true,
    stream_options: { include_usage: true },
  });
}

/**
 * Streams one chat completion.
 *
 * @throws KVATLAS_ENDPOINT_UNAVAILABLE any answer but a complete stream.
 */
export async function chat(baseUrl: string, request: ChatRequest, signal: AbortSignal): Promise<ChatTurn> {
  const startedAt = performance.now();
  const response = await fetch(`${baseUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: chatBody(request),
    signal,
  });
  if (!response.ok || response.body === null) {
    throw new KvatlasError(
      "KVATLAS_ENDPOINT_UNAVAILABLE",
      `${baseUrl} answered ${response.status}: ${(await response.text()).slice(0, 500)}`,
    );
  }
  let text = "";
  let ttftMs: number | null = null;
  let finishReason: string | null = null;
  let usage: ChunkUsage | null = null;
  let isDone = false;
  for await (const data of serverSentData(response.body)) {
    if (data === "[DONE]") {
      isDone = true;
      continue;
    }
    const chunk = JSON.parse(data) as Chunk;
    const choice = chunk.choices?.[0];
    const piece = choice?.delta?.content ?? "";
    if (piece !== "") ttftMs ??= performance.now() - startedAt;
    text += piece;
    finishReason = choice?.finish_reason ?? finishReason;
    usage = chunk.usage ?? usage;
  }
  if (!isDone || ttftMs === null || usage === null) {
    throw new KvatlasError("KVATLAS_ENDPOINT_UNAVAILABLE", `${baseUrl} broke off its answer after ${text.length} characters.`);
  }
  return {
    text,
    finishReason,
    ttftMs,
    endpoint: response.headers.get("x-kvatlas-endpoint"),
    mode: response.headers.get("x-kvatlas-mode"),
    matchedTokens: Number(response.headers.get("x-kvatlas-matched-tokens") ?? 0),
    promptTokens: usage.prompt_tokens ?? 0,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
  };
}

interface ChunkUsage {
  readonly prompt_tokens?: number;
  readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null;
}

interface Chunk {
  readonly choices?: readonly { readonly delta?: { readonly content?: string | null }; readonly finish_reason?: string | null }[];
  readonly usage?: ChunkUsage | null;
}

/** The `data:` lines of a stream of server-sent events. */
async function* serverSentData(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}
