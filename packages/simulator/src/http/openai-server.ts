import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { MediaItem } from "@kvatlas/shared/hashing/block-hasher";
import type { Logger } from "@kvatlas/shared/logger";
import type { Replica, SleepLevel } from "../replica.ts";
import { answerCompletion, type CompletionDeps, checkModel, encodePrompt } from "./completion-handler.ts";
import { answerControl } from "./control-routes.ts";
import { ApiError, errorBody, isObject, type JsonObject, parseObject, readBody, sendJson, sendText } from "./http-io.ts";

export type OpenAiServerDeps = CompletionDeps & { readonly logger: Logger };

/** The HTTP side of a replica: vLLM's OpenAI-compatible server and its operational endpoints, and `/sim`. Not yet listening. */
export function createOpenAiServer(deps: OpenAiServerDeps): Server {
  const server = createServer((request, response) => {
    answer(deps, request, response).catch((error: unknown) => {
      // The client went away: nobody is there to tell.
      if (response.destroyed) return;
      const known = error instanceof ApiError ? error : new ApiError(500, "Internal server error");
      if (!(error instanceof ApiError)) deps.logger.error({ err: error, path: request.url }, "request failed");
      if (response.headersSent) response.destroy();
      else {
        if (known.status === 413) {
          // What is left of the body is thrown away, and the connection cannot be used again.
          response.setHeader("connection", "close");
          request.resume();
        }
        sendJson(response, known.status, errorBody(known));
      }
    });
  });
  // Time to receive a request; answers have no limit. Idle connections are kept for 5 s, as uvicorn does.
  server.requestTimeout = 300_000;
  server.headersTimeout = 10_000;
  server.keepAliveTimeout = 5_000;
  return server;
}

async function answer(deps: OpenAiServerDeps, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { replica } = deps;
  const path = (request.url ?? "/").split("?", 1)[0] ?? "/";
  if (path.startsWith("/sim/") && (await answerControl(replica, path, request, response))) return;
  const read = (): Promise<string> => readBody(request, replica.options.maxBodyBytes);
  switch (`${request.method} ${path}`) {
    case "POST /v1/chat/completions":
    case "POST /v1/completions":
      failOnPurpose(replica);
      await answerCompletion(deps, path === "/v1/completions" ? "completion" : "chat", await read(), request, response);
      return;
    case "POST /v1/chat/completions/render":
    case "POST /v1/completions/render":
      await answerRender(deps, path, await read(), response);
      return;
    case "POST /tokenize":
      await answerTokenize(deps, await read(), response);
      return;
    case "POST /detokenize":
      answerDetokenize(deps, parseObject(await read()), response);
      return;
    case "GET /v1/models":
      sendJson(response, 200, modelList(deps));
      return;
    case "GET /health":
    case "GET /ping":
    case "POST /ping":
      sendText(response, replica.faults.unhealthy ? 503 : 200, "text/plain; charset=utf-8", "");
      return;
    case "GET /version":
      sendJson(response, 200, { version: replica.options.profile.version });
      return;
    case "GET /metrics":
      sendText(response, 200, replica.metricsContentType, await replica.metricsText());
      return;
    case "GET /load":
      sendJson(response, 200, { server_load: replica.ranks.reduce((sum, rank) => sum + rank.engine.running + rank.engine.waiting, 0) });
      return;
    case "GET /is_sleeping":
      sendJson(response, 200, { is_sleeping: replica.isSleeping });
      return;
    case "POST /sleep":
      replica.sleep(sleepLevel(query(request, "level")));
      sendText(response, 200, "text/plain; charset=utf-8", "");
      return;
    case "POST /wake_up":
      replica.wakeUp();
      sendText(response, 200, "text/plain; charset=utf-8", "");
      return;
    case "POST /reset_prefix_cache": {
      const success = replica.resetPrefixCache();
      if (replica.options.profile.resetReportsSuccess) sendJson(response, 200, { success });
      else sendText(response, 200, "text/plain; charset=utf-8", "");
      return;
    }
    case "GET /kv_event_sources":
      if (!replica.options.profile.hasEventSources) break;
      sendJson(response, 200, eventSources(replica));
      return;
    default:
      break;
  }
  sendJson(response, 404, { detail: "Not Found" });
}

/** Level 1 when none is asked for, as in vLLM. @throws ApiError 400 */
function sleepLevel(text: string | null): SleepLevel {
  if (text === null) return 1;
  if (text === "0" || text === "1" || text === "2") return Number(text) as SleepLevel;
  throw new ApiError(400, `level must be 0, 1 or 2, got ${JSON.stringify(text)}.`, "level");
}

function query(request: IncomingMessage, name: string): string | null {
  return new URL(request.url ?? "/", "http://replica").searchParams.get(name);
}

function failOnPurpose(replica: Replica): void {
  const failure = replica.faults.failNext;
  if (failure === null || failure.count === 0) return;
  failure.count -= 1;
  throw new ApiError(failure.status, "This failure was asked for through /sim/faults.");
}

/** Since 0.30 behind --enable-scale-out: 404 in 0.30 and 0.31, 403 from 0.32 on. */
async function answerRender(deps: OpenAiServerDeps, path: string, bodyText: string, response: ServerResponse): Promise<void> {
  const { profile, enableScaleOut, model } = deps.replica.options;
  const minor = Number(profile.version.split(".")[1]);
  if (minor < 15 || ((minor === 30 || minor === 31) && !enableScaleOut)) {
    sendJson(response, 404, { detail: "Not Found" });
    return;
  }
  if (minor >= 32 && !enableScaleOut) throw new ApiError(403, "This endpoint needs --enable-scale-out.");
  const kind = path.startsWith("/v1/chat") ? "chat" : "completion";
  const prompts = await encodePrompt(deps.tokenizer.prompts, { kind, bodyText });
  const hasPayload = minor < 32 || parseObject(bodyText).mm_payload !== "none";
  const rendered = prompts.map(({ tokenIds, media }, index) => ({
    request_id: `${kind === "chat" ? "chatcmpl" : "cmpl"}-render-${index}`,
    token_ids: [...tokenIds],
    features: media === undefined ? null : featuresOf(media, hasPayload),
    model,
    stream: false,
  }));
  sendJson(response, 200, kind === "chat" ? rendered[0] : rendered);
}

/** What stands for a processed image where the payload is asked for: real ones are megabytes. */
const imagePayload = "x".repeat(16_384);

function featuresOf(media: readonly MediaItem[], hasPayload: boolean): JsonObject {
  return {
    mm_hashes: { image: media.map(({ identifier }) => identifier) },
    mm_placeholders: { image: media.map(({ offset, length }) => ({ offset, length })) },
    kwargs_data: hasPayload ? { image: media.map(() => imagePayload) } : null,
  };
}

async function answerTokenize(deps: OpenAiServerDeps, bodyText: string, response: ServerResponse): Promise<void> {
  const body = parseObject(bodyText);
  checkModel(deps.replica, typeof body.model === "string" ? body.model : null);
  const hasPrompt = body.prompt !== undefined;
  if (hasPrompt && typeof body.prompt !== "string") throw new ApiError(400, "prompt must be a string.", "prompt");
  if (!hasPrompt && !Array.isArray(body.messages)) throw new ApiError(400, "Either prompt or messages must be provided.");
  const [prompt] = await encodePrompt(deps.tokenizer.prompts, { kind: hasPrompt ? "completion" : "chat", bodyText });
  const ids = [...(prompt?.tokenIds ?? [])];
  sendJson(response, 200, { count: ids.length, max_model_len: deps.replica.options.maxModelLen, tokens: ids, token_strs: null });
}

function answerDetokenize(deps: OpenAiServerDeps, body: JsonObject, response: ServerResponse): void {
  const tokens = body.tokens;
  if (!Array.isArray(tokens) || !tokens.every((id): id is number => Number.isInteger(id) && id >= 0)) {
    throw new ApiError(400, "tokens must be a list of token ids.", "tokens");
  }
  sendJson(response, 200, { prompt: deps.tokenizer.decode(tokens) });
}

function modelList({ replica, clock }: OpenAiServerDeps): unknown {
  const { model, maxModelLen, loraAdapters } = replica.options;
  const created = Math.floor(clock.now() / 1000);
  const entry = (id: string, root: string, parent: string | null, length: number | null) => ({
    id,
    object: "model",
    created,
    owned_by: "vllm",
    root,
    parent,
    max_model_len: length,
    permission: [],
  });
  return {
    object: "list",
    data: [entry(model, model, null, maxModelLen), ...loraAdapters.map(({ name, path }) => entry(name, path, model, null))],
  };
}

function eventSources(replica: Replica): JsonObject {
  const { bufferSteps, highWaterMark, maxQueueSize } = replica.options;
  const sources: Record<string, unknown> = {};
  for (const rank of replica.ranks) {
    if (rank.publisher === null) continue;
    sources[String(rank.index)] = {
      enable_kv_cache_events: true,
      publisher: "zmq",
      endpoint: rank.publisher.endpoint,
      replay_endpoint: rank.publisher.replayEndpoint,
      buffer_steps: bufferSteps,
      hwm: highWaterMark,
      max_queue_size: maxQueueSize,
      topic: replica.topic,
    };
  }
  return isObject(sources) ? sources : {};
}
