import { cpus } from "node:os";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { parseArgs } from "node:util";
import { createThreadPromptEncoder, type ThreadEncoderOptions } from "@kvatlas/router/thread-encoder";
import { silentLogger } from "@kvatlas/shared/logger";
import { nativeEngineMissing } from "@kvatlas/shared/tokenization/native-engine";
import type { PromptEncoder, PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { modelDirectory } from "../support/tokenizer-models.ts";
import { createRandom, percentiles, round } from "./statistics.ts";

/*
 * Token ids of chats, through a worker thread as in a router, by both engines: a chat that grows by 200 tokens a turn at about 8,000 (warm), and
 * chats of 8,000 tokens never seen before (cold). The baseline of the same run remembers nothing (`cacheBytes: 0`): the engine alone. The event loop
 * of the calling thread is watched meanwhile.
 */

export const usage = "Usage: npm run bench -- tokenize [--quick]\n\n--quick: two families, by the engine a router takes";

/** By the packages that hold their files, which have no config.json: with what it would say. */
const families = { qwen3: "qwen3", gemma3: "gemma3", llama3_1: "llama", deepseek_v3: "deepseek_v3", mistral_nemo: "mistral" };
const quickFamilies: readonly string[] = ["qwen3", "llama3_1"];
/** Words of the first message; with the template and some words of several tokens about 8,000 tokens. */
const firstWords = 5_400;
const wordsPerMessage = 55;
/** Before anything is measured: V8 optimises for about that long. */
const warmUpChats = 8;
const chats = 6;
const turnsPerChat = 12;
const coldChats = 6;
const words =
  "the cache holds many blocks and each replica serves them from memory when a prefix matches what it computed before, 12345 times; größer (x != 1e5) 更大 of unusual tokenisation".split(
    " ",
  );

export async function run(args: readonly string[]): Promise<object> {
  const { values } = parseArgs({ args: [...args], options: { quick: { type: "boolean", default: false } } });
  const missing = await nativeEngineMissing();
  const preferred = missing === null ? ("native" as const) : ("javascript" as const);
  const results: object[] = [];
  for (const [family, modelType] of Object.entries(families)) {
    if (values.quick && !quickFamilies.includes(family)) continue;
    const options = { directory: modelDirectory(family), modelType };
    const baseline = await measure({ ...options, engine: preferred, cacheBytes: 0 });
    results.push({ family, engine: preferred, remembers: false, ...baseline });
    for (const engine of values.quick || missing !== null ? [preferred] : (["native", "javascript"] as const))
      results.push({ family, engine, remembers: true, ...(await measure({ ...options, engine })) });
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
    await timeTurns(encoder, random, warmUpChats);
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
