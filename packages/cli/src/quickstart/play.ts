import { KvatlasError } from "@kvatlas/shared/errors";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { waitUntil } from "../wait-until.ts";
import { type ChatMessage, type ChatRequest, type ChatTurn, chat, chatBody } from "./chat-client.ts";
import { blockSizeTokens, type Cluster, modelName } from "./cluster.ts";
import { type Conversation, routerWarmUpText, warmUpText } from "./documents.ts";
import { expectedMatch } from "./expected-match.ts";

/** One round as it is reported. */
export interface Round {
  readonly endpoint: string;
  readonly mode: string;
  readonly promptTokens: number;
  /** What the router predicted. */
  readonly matchedTokens: number;
  /** What the replica says it has reused. */
  readonly cachedTokens: number;
  readonly ttftMs: number;
}

export interface Played {
  readonly rounds: readonly [Round, Round];
  /** Prompt of round 2. */
  readonly promptIds: Uint32Array;
  /** Tokens of round 2 that the replica of round 1 must hold. */
  readonly expectedTokens: number;
  /** Tokens of round 2 that were sent there as the prompt of round 1: what an estimate knows of. */
  readonly sentTokens: number;
}

const maxAnswerTokens = 200;
const settleTimeoutMs = 30_000;
/** Each router reads the tokenizer in a thread of its own, which takes a second, or many where a machine is slow and does other things. */
const loadTimeoutMs = 60_000;

/** Two rounds of a chat through one router. `indexed` waits for the index between them, where there is something to wait for. */
export async function playConversation(
  deps: { readonly encoder: PromptEncoder; readonly signal: AbortSignal },
  baseUrl: string,
  { opening, followUp }: Conversation,
  indexed: (bodyOfRoundTwo: string, tokens: Pick<Played, "expectedTokens" | "sentTokens">) => Promise<void>,
): Promise<Played> {
  const first: ChatMessage[] = [{ role: "user", content: opening }];
  const roundOne = { model: modelName, messages: first, maxTokens: maxAnswerTokens };
  const one = await chat(baseUrl, roundOne, deps.signal);
  const second: ChatMessage[] = [...first, { role: "assistant", content: one.text }, { role: "user", content: followUp }];
  const roundTwo = { model: modelName, messages: second, maxTokens: maxAnswerTokens };
  const secondIds = await promptIds(deps.encoder, roundTwo);
  const firstIds = await promptIds(deps.encoder, roundOne);
  const expectedTokens = expectedMatch([...firstIds, ...(await answerIds(deps.encoder, one))], secondIds, blockSizeTokens);
  const sentTokens = expectedMatch(firstIds, secondIds, blockSizeTokens);
  await indexed(chatBody(roundTwo), { expectedTokens, sentTokens });
  const two = await chat(baseUrl, roundTwo, deps.signal);
  return { rounds: [roundOf(one), roundOf(two)], promptIds: secondIds, expectedTokens, sentTokens };
}

/** Tokens of an answer whose keys and values exist: the last one of an answer that was cut is sampled, but never fed back. */
async function answerIds(encoder: PromptEncoder, answer: ChatTurn): Promise<Uint32Array> {
  const bodyText = JSON.stringify({ prompt: answer.text, add_special_tokens: false });
  const [encoded] = await encoder.encode({ kind: "completion", bodyText });
  const ids = encoded?.tokenIds ?? new Uint32Array();
  return answer.finishReason === "length" ? ids.subarray(0, -1) : ids;
}

async function promptIds(encoder: PromptEncoder, request: ChatRequest): Promise<Uint32Array> {
  const [prompt] = await encoder.encode({ kind: "chat", bodyText: chatBody(request) });
  return prompt?.tokenIds ?? new Uint32Array();
}

function roundOf(turn: ChatTurn): Round {
  return {
    endpoint: turn.endpoint ?? "unknown",
    mode: turn.mode ?? "unknown",
    promptTokens: turn.promptTokens,
    matchedTokens: turn.matchedTokens,
    cachedTokens: turn.cachedTokens,
    ttftMs: Math.round(turn.ttftMs * 10) / 10,
  };
}

/**
 * Sends each replica a request longer than one block until its first event has told the ingester block size and hashes.
 * Events published before the replica's connection to the ingester is up come by replay only, so one request may not be enough.
 * Then asks each router until it routes in its own mode: worker threads have read the tokenizer by then.
 */
export async function warmUp(
  { simulators, registry, routers }: Pick<Cluster, "simulators" | "registry" | "routers">,
  signal: AbortSignal,
): Promise<void> {
  await Promise.all(
    simulators.map((simulator, replica) => {
      let attempt = 0;
      return waitUntil(
        async () => {
          const messages: ChatMessage[] = [{ role: "user", content: warmUpText(replica, attempt++) }];
          await chat(simulator.url, { model: modelName, messages, maxTokens: 2 }, signal);
          const known = (await registry.endpoints()).find(({ id }) => id === simulator.address);
          return known !== undefined && known.meta.scope !== null && known.meta.ready ? known : null;
        },
        { problem: `the index has not learned of replica ${simulator.address}`, timeoutMs: settleTimeoutMs, intervalMs: 100, signal },
      );
    }),
  );
  for (const { address, mode } of routers) {
    const problem = `the router at ${address} has not answered in mode ${mode}`;
    await waitUntil(() => askOnce(address, mode, signal), { problem, timeoutMs: loadTimeoutMs, intervalMs: 100, signal });
  }
}

async function askOnce(address: string, mode: string, signal: AbortSignal): Promise<true | null> {
  try {
    const messages: ChatMessage[] = [{ role: "user", content: routerWarmUpText }];
    const turn = await chat(`http://${address}`, { model: modelName, messages, maxTokens: 2 }, signal);
    return turn.mode === mode ? true : null;
  } catch (error) {
    if (error instanceof KvatlasError) return null;
    throw error;
  }
}

/** Waits until a router would find what round 1 has left: asks it where round 2 would go, which sends nothing to a replica. */
export async function waitKnown(address: string, body: string, tokens: number, signal: AbortSignal): Promise<void> {
  await waitUntil(
    async () => {
      const response = await fetch(`http://${address}/kvatlas/v1/route`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body,
        signal,
      });
      const answer = (await response.json()) as { readonly matchedTokens?: number };
      return response.ok && (answer.matchedTokens ?? 0) >= tokens ? true : null;
    },
    { problem: `the router at ${address} has not found what round 1 has left`, timeoutMs: settleTimeoutMs, signal },
  );
}
