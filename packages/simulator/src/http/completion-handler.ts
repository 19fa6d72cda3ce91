import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Clock } from "@kvatlas/shared/clock";
import { isKvatlasError } from "@kvatlas/shared/errors";
import type { EncodedPrompt, PromptEncoder, PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { planAnswer } from "../engine/answer.ts";
import type { LossReason } from "../engine/engine.ts";
import type { Sequence } from "../engine/sequence.ts";
import type { EngineProfile } from "../engine-profile.ts";
import type { Rank } from "../rank.ts";
import type { Replica } from "../replica.ts";
import type { SimulatorTokenizer } from "../tokenizer.ts";
import { handoverParams, transferWishOf } from "../transfer/transfer-params.ts";
import { type CompletionCall, parseCompletionCall } from "./completion-call.ts";
import {
  type ChoiceState,
  chatOpening,
  completionBody,
  completionChunk,
  type ResponseHead,
  type UsageOptions,
  usageChunk,
  usageOf,
} from "./completion-shapes.ts";
import { ApiError, type JsonObject, parseObject, sendJson } from "./http-io.ts";

export interface CompletionDeps {
  readonly replica: Replica;
  readonly tokenizer: SimulatorTokenizer;
  readonly clock: Clock;
}

/**
 * Answers `/v1/chat/completions` and `/v1/completions`, streamed or whole. A client that goes away aborts its sequences.
 *
 * @throws ApiError before the first byte
 */
export async function answerCompletion(
  deps: CompletionDeps,
  kind: "chat" | "completion",
  bodyText: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { replica, tokenizer } = deps;
  const { options } = replica;
  const body = parseObject(bodyText);
  const call = parseCompletionCall(kind, body, options.profile);
  const lora = checkModel(replica, call.model);
  const rank = replica.pickRank(askedRank(request, options.dataParallelSize));
  const prompts =
    call.promptTokenIds?.map((tokenIds): PromptTokens => ({ tokenIds })) ?? (await encodePrompt(tokenizer.prompts, { kind, bodyText }));
  if (response.destroyed) return;
  for (const { tokenIds } of prompts) checkLength(tokenIds.length, options.maxModelLen);

  const headerId = header(request, "x-request-id") ?? call.requestId ?? randomUUID().replaceAll("-", "").slice(0, 16);
  const head: ResponseHead = {
    id: `${kind === "chat" ? "chatcmpl" : "cmpl"}-${headerId}`,
    created: Math.floor(deps.clock.now() / 1000),
    model: call.model ?? options.model,
  };
  const leaving = new AbortController();
  response.once("close", () => leaving.abort());
  const wish = options.kvTransfer ? transferWishOf(body, options.profile, head.id) : null;
  let receivedTokens = 0;
  const [firstPrompt] = prompts;
  if (wish?.kind === "pull" && firstPrompt !== undefined) {
    const prompt = { promptTokenIds: firstPrompt.tokenIds, media: firstPrompt.media, lora, cacheSalt: call.cacheSalt };
    const received = await replica.pull(rank, wish.from, prompt, leaving.signal);
    if (response.destroyed) return;
    if (received === null && options.kvLoadFailure === "fail") throw new ApiError(500, "The KV cache of the prompt could not be loaded.");
    receivedTokens = received ?? 0;
  }
  const keepsFor: Handover | null = wish?.kind === "keep" ? handoverOf(request, head, options.profile) : null;
  const run = new CompletionRun(deps, call, head, rank, response, keepsFor);
  leaving.signal.addEventListener("abort", () => run.abort());
  for (const [promptIndex, { tokenIds: promptTokenIds, media }] of prompts.entries()) {
    for (let choice = 0; choice < call.n; choice += 1) {
      const room = options.maxModelLen - promptTokenIds.length;
      const maxTokens = Math.max(1, Math.min(call.maxTokens ?? room, room));
      const answer = planAnswer(
        {
          promptTokenIds,
          choice,
          maxTokens,
          minTokens: Math.min(call.minTokens, maxTokens),
          ignoresEndOfSequence: call.ignoresEndOfSequence,
          stop: call.stop,
          stopTokenIds: call.stopTokenIds,
          typicalTokens: options.typicalAnswerTokens,
        },
        tokenizer.vocabulary,
      );
      const index = promptIndex * call.n + choice;
      run.add(answer, {
        id: index === 0 ? headerId : `${headerId}-${index}`,
        promptTokenIds,
        media,
        answer,
        lora,
        cacheSalt: call.cacheSalt,
        sessionId: call.sessionId ?? header(request, "x-session-id"),
        skipsCacheLookup: call.skipsCacheLookup,
        reportsReusedBlocks: call.reportsReusedBlocks,
        receivedTokens: index === 0 ? receivedTokens : 0,
        holdsBlocks: index === 0 && keepsFor !== null,
      });
    }
  }
}

type PromptTokens = Pick<EncodedPrompt, "tokenIds" | "media">;

/** Under which name, and at which address, another engine gets the blocks. */
interface Handover {
  readonly requestId: string;
  readonly address: { readonly host: string; readonly port: number };
}

/** The address is the one that this request was sent to: who can reach the replica there can reach it for the blocks as well. */
function handoverOf(request: IncomingMessage, head: ResponseHead, profile: EngineProfile): Handover {
  const { localAddress = "127.0.0.1", localPort = 0 } = request.socket;
  return {
    requestId: profile.handsOverRequestId ? `${head.id}-${randomUUID().slice(0, 8)}` : head.id,
    address: { host: localAddress.replace(/^::ffff:/, ""), port: localPort },
  };
}

/** @throws ApiError 404 */
export function checkModel(replica: Replica, model: string | null): ReturnType<Replica["adapter"]> {
  if (model === null || model === replica.options.model) return null;
  const lora = replica.adapter(model);
  if (lora === null) throw new ApiError(404, `The model \`${model}\` does not exist.`, "model");
  return lora;
}

/** @throws ApiError 400 for what the engine would refuse, 501 where this replica has no tokenizer */
export async function encodePrompt(encoder: PromptEncoder, request: PromptRequest): Promise<readonly PromptTokens[]> {
  try {
    return await encoder.encode(request);
  } catch (error) {
    if (isKvatlasError(error, "KVATLAS_PROMPT_INVALID")) throw new ApiError(400, error.message);
    if (isKvatlasError(error, "KVATLAS_TOKENIZER_UNAVAILABLE")) throw new ApiError(501, error.message);
    if (isKvatlasError(error, "KVATLAS_TOKENIZER_BUSY")) throw new ApiError(503, error.message);
    throw error;
  }
}

function checkLength(promptTokens: number, maxModelLen: number): void {
  if (promptTokens === 0) throw new ApiError(400, "The prompt is empty.", "prompt");
  if (promptTokens < maxModelLen) return;
  throw new ApiError(
    400,
    `This model's maximum context length is ${maxModelLen} tokens. However, your request has ${promptTokens} input tokens. Please reduce the length of the input messages.`,
  );
}

/** The header is ignored unless it is a whole number. @throws ApiError 400 out of range */
function askedRank(request: IncomingMessage, size: number): number | null {
  const text = header(request, "x-data-parallel-rank");
  if (text === null || !/^[+-]?\d{1,9}$/.test(text.trim())) return null;
  const rank = Number(text);
  if (rank >= 0 && rank < size) return rank;
  throw new ApiError(400, `data_parallel_rank ${rank} is out of range [0, ${size}).`);
}

function header(request: IncomingMessage, name: string): string | null {
  const value = request.headers[name];
  return typeof value === "string" && value !== "" ? value : null;
}

/** One HTTP request in progress: its choices, and what has been written of them. */
class CompletionRun {
  readonly #deps: CompletionDeps;
  readonly #call: CompletionCall;
  readonly #head: ResponseHead;
  readonly #rank: Rank;
  readonly #response: ServerResponse;
  readonly #handover: Handover | null;
  readonly #usageOptions: UsageOptions;
  readonly #states: ChoiceState[] = [];
  readonly #sequences: Sequence[] = [];
  #unfinished = 0;
  #isOver = false;

  constructor(
    deps: CompletionDeps,
    call: CompletionCall,
    head: ResponseHead,
    rank: Rank,
    response: ServerResponse,
    handover: Handover | null,
  ) {
    this.#deps = deps;
    this.#call = call;
    this.#head = head;
    this.#rank = rank;
    this.#response = response;
    this.#handover = handover;
    this.#usageOptions = {
      promptTokensDetails: deps.replica.options.promptTokensDetails,
      omitsZeroCachedTokens: deps.replica.options.profile.omitsZeroCachedTokens,
    };
  }

  add(answer: ReturnType<typeof planAnswer>, submission: Parameters<Replica["submit"]>[1]): void {
    const state: ChoiceState = {
      index: this.#states.length,
      promptTokenIds: submission.promptTokenIds,
      echoed: this.#call.echo ? this.#deps.tokenizer.decode([...submission.promptTokenIds]) : "",
      text: "",
      tokenIds: [],
      cachedTokens: 0,
      finishReason: null,
      handover: null,
      stopReason: null,
    };
    this.#states.push(state);
    this.#unfinished += 1;
    let sent = 0;
    const sequence = this.#deps.replica.submit(this.#rank, submission, {
      onToken: (advanced) => {
        const position = advanced.generated - 1;
        state.text += answer.texts[position] ?? "";
        state.tokenIds.push(answer.tokenIds[position] ?? 0);
        state.cachedTokens = Math.max(0, advanced.cachedTokens);
        if (advanced.status === "finished") {
          state.finishReason = answer.finishReason;
          state.stopReason = answer.stopReason;
          if (advanced.spec.holdsBlocks === true) state.handover = this.#keep(advanced);
          this.#unfinished -= 1;
        }
        const isDue = advanced.generated - sent >= this.#deps.replica.options.streamInterval || sent === 0 || state.finishReason !== null;
        if (this.#call.stream && isDue) {
          this.#writeChunk(
            state,
            answer.texts.slice(sent, advanced.generated).join(""),
            answer.tokenIds.slice(sent, advanced.generated),
            sent === 0,
          );
          sent = advanced.generated;
        }
        if (this.#unfinished === 0) this.#finish();
      },
      onLost: (reason) => this.#lose(reason),
    });
    this.#sequences.push(sequence);
  }

  abort(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const sequence of this.#sequences) this.#rank.engine.abort(sequence);
  }

  /** Blocks stay for the engine that decodes, unless this release hands over only what ended by length. */
  #keep(sequence: Sequence): JsonObject | null {
    const { replica } = this.#deps;
    const { profile } = replica.options;
    if (this.#handover === null || (sequence.spec.finishReason === "stop" && !profile.handsOverStopped)) {
      this.#rank.engine.release(sequence);
      return null;
    }
    const { requestId, address } = this.#handover;
    const blockIds = sequence.blocks.slice(0, Math.ceil(sequence.spec.promptTokens / replica.options.blockSizeTokens));
    replica.kept.keep(requestId, this.#rank.engine, sequence);
    const { engineId } = replica.kept;
    return handoverParams(profile, { engineId, requestId, blockIds, tokens: sequence.spec.promptTokens }, address);
  }

  #writeChunk(state: ChoiceState, text: string, tokenIds: readonly number[], isFirst: boolean): void {
    if (!this.#response.headersSent) {
      this.#response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" });
    }
    if (isFirst && this.#call.kind === "chat") this.#writeEvent(chatOpening(this.#call, this.#head, state));
    const usage = this.#call.continuousUsage ? usageOf([state], 1, this.#usageOptions, false) : null;
    this.#writeEvent(completionChunk(this.#call, this.#head, state, { text, tokenIds, isFirst }, usage));
  }

  #writeEvent(data: unknown): void {
    if (!this.#response.destroyed) this.#response.write(`data: ${JSON.stringify(data)}\n\n`);
  }

  #finish(): void {
    this.#isOver = true;
    const usage = usageOf(this.#states, this.#call.n, this.#usageOptions);
    if (!this.#call.stream) {
      sendJson(this.#response, 200, completionBody(this.#call, this.#head, this.#states, usage));
      return;
    }
    if (this.#call.includesUsage) this.#writeEvent(usageChunk(this.#call, this.#head, usage));
    this.#response.end("data: [DONE]\n\n");
  }

  /** An engine that goes to sleep ends what runs with `abort`; a process that goes away closes the connection without a word. */
  #lose(reason: LossReason): void {
    if (this.#isOver) return;
    this.abort();
    if (reason !== "sleep") {
      this.#response.destroy();
      return;
    }
    for (const state of this.#states) {
      if (state.finishReason !== null) continue;
      state.finishReason = "abort";
      if (this.#call.stream) this.#writeChunk(state, "", [], state.tokenIds.length === 0);
    }
    this.#finish();
  }
}
