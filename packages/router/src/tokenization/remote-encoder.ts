import type { Clock } from "@kvatlas/shared/clock";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { EncodedPrompt, PromptEncoder, PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { Agent } from "undici";
import { AdmissionQueue } from "./admission-queue.ts";
import { tokenizeBody } from "./engine-body.ts";
import { type PostJson, postJson } from "./post-json.ts";
import { promptsOfRender, promptsOfTokenize } from "./rendered-prompt.ts";

export interface RemoteEncoderDeps {
  /** `host:port` of replicas that may be asked, best known at this moment. */
  readonly addresses: () => readonly string[];
  /** Sent as a bearer token; null: none. */
  readonly apiKey?: () => string | null;
  readonly clock: Clock;
}

export interface RemoteEncoderOptions {
  /** Questions on their way at once, and as many about prompts that only engines can encode. @defaultValue 16 */
  readonly concurrency?: number;
  /** Requests that may wait for their turn. @defaultValue 256 */
  readonly maxQueue?: number;
  /** The longest a question may take, whether or not the caller waits. @defaultValue 5000 */
  readonly timeoutMs?: number;
}

/** A replica that failed is not asked for this long, and one that has no such endpoints is asked again about them after the longer time. */
const AVOID_MS = 5_000;
const ENDPOINTS_AGAIN_MS = 300_000;
/** Replicas asked for one request. */
const MAX_TRIES = 2;
const renderPaths = {
  chat: "/v1/chat/completions/render",
  completion: "/v1/completions/render",
  messages: "/v1/messages/render",
  responses: "/v1/responses/render",
} as const;
/** What an engine says when it has no such endpoint, or does not open it (vLLM 0.30 and on without --enable-scale-out). */
const noEndpoint = new Set([403, 404, 405, 501]);

/**
 * Asks replicas for the token ids of requests: the render endpoint, which runs the request's own code, else `/tokenize`. Replicas take turns;
 * connections are kept.
 */
export function createRemoteEncoder(deps: RemoteEncoderDeps, options: RemoteEncoderOptions = {}): PromptEncoder {
  const { concurrency = 16, maxQueue = 256, timeoutMs = 5_000 } = options;
  const agent = new Agent({ connections: 2 * concurrency, keepAliveTimeout: 30_000, connectTimeout: Math.min(2_000, timeoutMs) });
  // Images take a replica a hundred times as long as text, which must not wait behind them.
  const queues = { text: new AdmissionQueue({ concurrency, maxQueue }), media: new AdmissionQueue({ concurrency, maxQueue }) };
  const avoidUntil = new Map<string, number>();
  /** By address and path: which of them there are depends on the release. */
  const noRenderUntil = new Map<string, number>();
  const noTokenizeUntil = new Map<string, number>();
  let turn = 0;

  const until = (times: Map<string, number>, place: string): boolean => (times.get(place) ?? 0) > deps.clock.monotonic();

  const choose = (): readonly string[] => {
    const known = [...new Set(deps.addresses())];
    for (const times of [avoidUntil, noRenderUntil, noTokenizeUntil]) {
      for (const place of times.keys()) if (!known.includes(place.split(" ", 1)[0] ?? "")) times.delete(place);
    }
    turn = (turn + 1) % Math.max(1, known.length);
    const ordered = [...known.slice(turn), ...known.slice(0, turn)];
    const able = ordered.filter((address) => !until(noTokenizeUntil, address));
    const good = able.filter((address) => !until(avoidUntil, address));
    return (good.length === 0 ? able : good).slice(0, MAX_TRIES);
  };

  const post = (address: string, path: string, body: string): ReturnType<PostJson> => {
    const apiKey = deps.apiKey?.() ?? null;
    return postJson(agent, `http://${address}${path}`, body, { timeoutMs, ...(apiKey === null ? {} : { apiKey }) });
  };

  const ask = async (address: string, request: PromptRequest): Promise<readonly EncodedPrompt[]> => {
    const path = renderPaths[request.kind];
    if (!until(noRenderUntil, `${address} ${path}`)) {
      const body = request.engineOnly === true ? withoutPayload(request.bodyText) : request.bodyText;
      const { status, json } = await post(address, path, body);
      if (status === 200) return promptsOfRender(json);
      if (!noEndpoint.has(status)) throw refusal(address, path, status, json);
      noRenderUntil.set(`${address} ${path}`, deps.clock.monotonic() + ENDPOINTS_AGAIN_MS);
    }
    if (request.engineOnly === true) {
      const text = `${address} has no ${path}, and nothing else tells the tokens of such a prompt; docs/tokenization.md says which releases have it`;
      throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", text);
    }
    const { status, json } = await post(address, "/tokenize", tokenizeBody(request));
    if (status === 200) return promptsOfTokenize(json);
    // An engine that has the endpoint and does not know the model answers 404, too, in its own words.
    if (noEndpoint.has(status) && messageOf(json) === "") noTokenizeUntil.set(address, deps.clock.monotonic() + ENDPOINTS_AGAIN_MS);
    throw refusal(address, "/tokenize", status, json);
  };

  const askSome = async (request: PromptRequest): Promise<readonly EncodedPrompt[]> => {
    let failure: unknown = new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", "no replica is known that could encode the prompt");
    for (const address of choose()) {
      try {
        return await ask(address, request);
      } catch (error) {
        failure = error;
        if (error instanceof KvatlasError && error.code !== "KVATLAS_ENDPOINT_UNAVAILABLE") throw error;
        avoidUntil.set(address, deps.clock.monotonic() + AVOID_MS);
      }
    }
    if (failure instanceof KvatlasError && failure.code === "KVATLAS_TOKENIZER_UNAVAILABLE") throw failure;
    const reason = failure instanceof Error ? failure.message : String(failure);
    throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", `no replica encoded the prompt: ${reason}`, { cause: failure });
  };

  let closing: Promise<void> | null = null;
  return {
    encode: (request, callOptions) => {
      const queue = request.engineOnly === true ? queues.media : queues.text;
      return queue.run(() => askSome(request), callOptions?.signal);
    },
    close: () => {
      closing ??= Promise.all([queues.text.close(), queues.media.close()]).then(() => agent.destroy());
      return closing;
    },
  };
}

function refusal(address: string, path: string, status: number, json: unknown): KvatlasError {
  const text = `${path} of ${address} answers ${status}${messageOf(json)}`;
  if (status === 400 || status === 422) return new KvatlasError("KVATLAS_PROMPT_INVALID", text);
  return new KvatlasError(status >= 500 && status !== 501 ? "KVATLAS_ENDPOINT_UNAVAILABLE" : "KVATLAS_TOKENIZER_UNAVAILABLE", text);
}

/** The body, asking not to send back what has been made of the images: megabytes (vLLM 0.32 and later; others pass over the field). */
function withoutPayload(bodyText: string): string {
  const end = bodyText.lastIndexOf("}");
  return `${bodyText.slice(0, end)},"mm_payload":"none"${bodyText.slice(end)}`;
}

/** The engine's own words, cut: they may quote the prompt. */
function messageOf(json: unknown): string {
  const error: unknown = typeof json === "object" && json !== null && "error" in json ? json.error : null;
  const message: unknown = typeof error === "object" && error !== null && "message" in error ? error.message : null;
  return typeof message === "string" ? `: ${message.slice(0, 120)}` : "";
}
