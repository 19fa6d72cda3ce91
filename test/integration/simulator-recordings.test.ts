import { readFileSync } from "node:fs";
import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import type { HashAlgorithm } from "@kvatlas/shared/hashing/key-scheme";
import { Scheduler } from "@kvatlas/simulator/engine/scheduler";
import { engineProfile } from "@kvatlas/simulator/engine-profile";
import { createHashChain } from "@kvatlas/simulator/hash-chain";
import { describe, expect, it } from "vitest";

interface Meta {
  readonly args: readonly string[];
  readonly engine_version: string;
  readonly model: string;
  readonly block_size: number;
  readonly algo: HashAlgorithm;
  readonly seed: string;
}

interface Choice {
  readonly prompt_token_ids?: readonly number[] | null;
  readonly token_ids?: readonly number[];
}

interface Body {
  readonly model?: string;
  readonly prompt?: unknown;
  readonly cache_salt?: string;
  readonly prompt_token_ids?: readonly number[] | null;
  readonly choices?: readonly Choice[];
  readonly usage?: { readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null; readonly completion_tokens?: number };
}

interface Line {
  readonly kind: string;
  readonly id?: string;
  readonly direction?: string;
  readonly frames?: readonly string[];
  readonly concurrent?: string;
  readonly path?: string;
  readonly body?: Body;
  readonly sse?: readonly string[];
}

interface Outcome {
  readonly requests: number;
  /** Batches as text, engine's and ours, in order. */
  readonly recorded: readonly string[];
  readonly simulated: readonly string[];
  readonly recordedHits: readonly number[];
  readonly simulatedHits: readonly number[];
}

const loraPaths: Readonly<Record<string, string>> = { law: "models/lora-a", poet: "models/lora-b" };

function argument(meta: Meta, name: string): number | undefined {
  const at = meta.args.indexOf(name);
  return at < 0 ? undefined : Number(meta.args[at + 1]);
}

/**
 * Runs the sequential requests at the beginning of a recording (until the first that overlaps with another) through the scheduler, with the
 * prompt and answer tokens of the recording, and collects what the engine and the scheduler made of them.
 */
function replay(file: string): Outcome {
  const lines = readFileSync(new URL(`../fixtures/engine/${file}.jsonl`, import.meta.url), "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Line);
  const meta = lines.find((line) => line.kind === "meta") as unknown as Meta;
  const profile = engineProfile(meta.engine_version);
  const chain = createHashChain(
    { profile, model: meta.model, blockSizeTokens: meta.block_size, hashAlgorithm: meta.algo, lookaheadTokens: 0, bytesHashes: false },
    meta.seed,
  );
  const scheduler = new Scheduler({
    blockSizeTokens: meta.block_size,
    numBlocks: argument(meta, "--num-gpu-blocks-override") ?? 4096,
    maxNumSeqs: argument(meta, "--max-num-seqs") ?? 256,
    maxNumBatchedTokens: argument(meta, "--max-num-batched-tokens") ?? 2048,
    unhashedFreedFirst: profile.unhashedFreedFirst,
    reservesWholePrompt: profile.reservesWholePrompt,
    lookaheadTokens: 0,
    enablePrefixCaching: true,
    hostBlocks: 0,
  });
  const simulated: string[] = [];
  const recorded = recordedBatches(lines);
  const recordedHits: number[] = [];
  const simulatedHits: number[] = [];
  let requests = 0;
  const responses = new Map(lines.filter((line) => line.kind === "response").map((line) => [line.id, line]));

  for (const line of lines) {
    if (line.kind !== "request") continue;
    if (line.concurrent !== undefined) break;
    const answers = answersOf(line, responses.get(line.id));
    if (answers === null || answers.some((answer) => answer.tokenIds === null && reachesNewBlock(answer, meta.block_size))) break;
    requests += 1;
    const loraName = line.body?.model !== undefined && line.body.model !== meta.model ? line.body.model : null;
    const lora = loraName === null ? null : { id: Object.keys(loraPaths).indexOf(loraName) + 1, name: loraName };
    const cacheSalt = line.body?.cache_salt ?? null;
    const sequences = answers.map(({ prompt, length, tokenIds: answer }) => {
      const tokenIds = Uint32Array.from([...prompt, ...(answer ?? new Array<number>(length).fill(0))]);
      return scheduler.add({
        id: line.id ?? "",
        tokenIds,
        promptTokens: prompt.length,
        finishReason: "length",
        hashes: chain.hashes(tokenIds, {
          ...(loraName === null ? {} : { lora: { name: loraName, path: loraPaths[loraName] ?? "" } }),
          ...(cacheSalt === null ? {} : { cacheSalt }),
        }),
        lora,
        cacheSalt,
        sessionId: null,
        skipsCacheLookup: false,
        reportsReusedBlocks: false,
      });
    });
    for (let plan = scheduler.schedule(); plan !== null; plan = scheduler.schedule()) {
      scheduler.complete(plan);
      const events = scheduler.takeEvents();
      if (events.length === 0) continue;
      simulated.push(
        events
          .map((event) =>
            event.kind === "stored"
              ? `+${event.parent ?? "root"}:${event.hashes.join(",")}:${event.tokenIds.join(" ")}:${profile.storedArrayLength >= 9 ? JSON.stringify(event.extraKeys) : ""}`
              : event.kind === "removed"
                ? `-${event.hash}`
                : "cleared",
          )
          .join("\n"),
      );
    }
    recordedHits.push(answers.at(-1)?.cachedTokens ?? 0);
    simulatedHits.push(sequences.at(-1)?.cachedTokens ?? -1);
  }
  return { requests, recorded, simulated, recordedHits, simulatedHits };
}

interface RecordedAnswer {
  readonly prompt: readonly number[];
  /** null where the engine did not return ids. */
  readonly tokenIds: readonly number[] | null;
  /** Tokens of the answer. */
  readonly length: number;
  /** Of the request. */
  readonly cachedTokens: number;
}

/** One entry per sequence of a request, null when the recording does not hold the ids of its prompts or it failed. */
function answersOf(request: Line, response: Line | undefined): readonly RecordedAnswer[] | null {
  const bodies = response?.sse?.flatMap((part) => (part.includes("[DONE]") ? [] : [JSON.parse(part.slice(5)) as Body]));
  const usage = response?.body?.usage ?? bodies?.find((body) => body.usage !== undefined)?.usage;
  const choices = response?.body?.choices ?? (bodies === undefined ? [] : [mergeChunks(bodies)]);
  if (usage === undefined || choices.length === 0) return null;
  const answers: RecordedAnswer[] = [];
  for (const choice of choices) {
    const prompt = choice.prompt_token_ids ?? response?.body?.prompt_token_ids ?? request.body?.prompt;
    if (!Array.isArray(prompt) || typeof prompt[0] !== "number") return null;
    const length = choice.token_ids?.length ?? (choices.length === 1 ? (usage.completion_tokens ?? 0) : 0);
    if (length === 0) return null;
    answers.push({
      prompt: prompt as number[],
      tokenIds: choice.token_ids ?? null,
      length,
      cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    });
  }
  return answers;
}

function mergeChunks(chunks: readonly Body[]): Choice {
  const prompt = chunks
    .map((chunk) => chunk.prompt_token_ids ?? chunk.choices?.[0]?.prompt_token_ids)
    .find((ids) => ids !== undefined && ids !== null);
  return {
    ...(prompt === undefined || prompt === null ? {} : { prompt_token_ids: prompt }),
    token_ids: chunks.flatMap((chunk) => chunk.choices?.[0]?.token_ids ?? []),
  };
}

/** Whether the tokens of an answer become part of a stored block. The oldest engines do not return them; short of that they do not matter. */
function reachesNewBlock({ prompt, length }: RecordedAnswer, blockSizeTokens: number): boolean {
  return Math.floor((prompt.length + length - 1) / blockSizeTokens) > Math.floor(prompt.length / blockSizeTokens);
}

/** The batches of the recording by sequence number, live and replayed ones together. */
function recordedBatches(lines: readonly Line[]): string[] {
  const batches: string[] = [];
  for (const line of lines) {
    const [sequence, payload] = line.frames?.slice(-2) ?? [];
    if (line.kind !== "frame" || line.direction === "sent" || sequence === undefined || !payload) continue;
    batches[Number(`0x${sequence}`)] ??= batchText(payload);
  }
  return batches;
}

function batchText(payload: string): string {
  const batch = decodeEventBatch(Buffer.from(payload, "hex"));
  return batch.events
    .map((event) =>
      event.kind === "stored"
        ? `+${event.parent ?? "root"}:${event.hashes.join(",")}:${event.tokenIds.join(" ")}:${event.extraKeys === null ? "" : JSON.stringify(event.extraKeys)}`
        : event.kind === "removed"
          ? `-${event.hashes.join(",")}`
          : "cleared",
    )
    .join("\n");
}

describe("the scheduler against recordings of real engines", () => {
  it.each([
    ["v0.32-evictions-b16", 21],
    ["v0.32-replay-b16", 53],
    ["v0.32-request-forms-b16", 31],
    ["v0.32-chats-b16", 26],
    ["v0.32-sha256-b64", 26],
    ["v0.32-chunked-prefill-b16", 11],
    ["v0.32-lora-b32", 17],
    ["v0.22.1-array-b16", 25],
    ["v0.11.2-array-b16", 25],
    ["v0.10.1-sha256cbor64bit-b16", 5],
  ])("emits the batches and reports the hits of %s", (file, atLeast) => {
    const outcome = replay(file);
    // What follows in the recording belongs to the requests after the one that stopped the replay.
    expect(outcome.simulatedHits).toEqual(outcome.recordedHits);
    expect(outcome.simulated).toEqual(outcome.recorded.slice(0, outcome.simulated.length));
    expect(outcome.requests).toBeGreaterThanOrEqual(atLeast);
  });
});
