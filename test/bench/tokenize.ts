import { cpus } from "node:os";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { createThreadPromptEncoder, type ThreadEncoderOptions } from "@kvatlas/router/thread-encoder";
import { silentLogger } from "@kvatlas/shared/logger";
import { nativeEngineMissing } from "@kvatlas/shared/tokenization/native-engine";
import type { PromptEncoder, PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { modelDirectory } from "../support/tokenizer-models.ts";
import { createRandom, percentiles, round } from "./statistics.ts";

/*
 * Token ids of chats, through a worker thread as in a router, by both engines: a chat that grows by 200 tokens a turn at about 8,000 (warm), and
 * chats of 8,000 tokens never seen before (cold), which is also what every turn would cost if nothing were remembered. The event loop of the
 * calling thread is watched meanwhile.
 */

/** By the packages that hold their files, which have no config.json: with what it would say. */
const families = { qwen3: "qwen3", llama3_1: "llama", gemma3: "gemma3", deepseek_v3: "deepseek_v3", mistral_nemo: "mistral" };
/** Words of the first message; with the template and some words of several tokens about 8,000 tokens. */
const firstWords = 6_600;
const wordsPerMessage = 90;
const chats = 2;
const turnsPerChat = 12;
const coldChats = 6;
const words =
  "the cache holds many blocks and each replica serves them from memory when a prefix matches what it computed before, 12345 times; größer (x != 1e5) 更大 of unusual tokenisation".split(
    " ",
  );

export async function run(): Promise<object> {
  const missing = await nativeEngineMissing();
  const engines = missing === null ? (["native", "javascript"] as const) : (["javascript"] as const);
  const results: object[] = [];
  for (const [family, modelType] of Object.entries(families)) {
    for (const engine of engines)
      results.push({ family, engine, ...(await measure({ directory: modelDirectory(family), engine, modelType })) });
  }
  return { cpu: cpus()[0]?.model, nativeMissing: missing, targets: { warmP50Ms: 1, coldP50Ms: 20, eventLoopMaxMs: 5 }, results };
}

async function measure(options: ThreadEncoderOptions): Promise<object> {
  const loadedAt = performance.now();
  const encoder = createThreadPromptEncoder({ ...options, threads: 1 }, { logger: silentLogger });
  await encoder.ready;
  const loadMs = round(performance.now() - loadedAt, 0);
  const loop = monitorEventLoopDelay({ resolution: 1 });
  try {
    const random = createRandom(7);
    await timeTurns(encoder, random, 1);
    loop.enable();
    const cold = await timeCold(encoder, random);
    const warm = await timeTurns(encoder, random, chats);
    loop.disable();
    return {
      loadMs,
      tokens: warm.tokens,
      warmMs: percentiles(warm.ms),
      coldMs: percentiles(cold),
      eventLoopMaxMs: round(loop.max / 1e6, 2),
    };
  } finally {
    loop.disable();
    await encoder.close();
  }
}

/** Turns of growing chats, the first of each left out. */
async function timeTurns(
  encoder: PromptEncoder,
  random: () => number,
  count: number,
): Promise<{ readonly ms: number[]; readonly tokens: number }> {
  const ms: number[] = [];
  let tokens = 0;
  for (let chat = 0; chat < count; chat++) {
    const messages = [{ role: "user", content: textOf(random, firstWords) }];
    await encoder.encode(requestOf(messages));
    for (let turn = 0; turn < turnsPerChat; turn++) {
      messages.push(
        { role: "assistant", content: textOf(random, wordsPerMessage) },
        { role: "user", content: textOf(random, wordsPerMessage) },
      );
      const request = requestOf(messages);
      const startedAt = performance.now();
      const [prompt] = await encoder.encode(request);
      ms.push(performance.now() - startedAt);
      if (turn === 0) tokens = prompt?.tokenIds.length ?? 0;
    }
  }
  return { ms, tokens };
}

async function timeCold(encoder: PromptEncoder, random: () => number): Promise<number[]> {
  const ms: number[] = [];
  for (let i = 0; i < coldChats; i++) {
    const request = requestOf([{ role: "user", content: textOf(random, firstWords) }]);
    const startedAt = performance.now();
    await encoder.encode(request);
    ms.push(performance.now() - startedAt);
  }
  return ms;
}

function requestOf(messages: readonly object[]): PromptRequest {
  return { kind: "chat", bodyText: JSON.stringify({ model: "m", messages }) };
}

/** No two texts alike: nothing is found that was not encoded in this chat. */
function textOf(random: () => number, count: number): string {
  return Array.from({ length: count }, () => words[(random() >>> 8) % words.length]).join(" ");
}
