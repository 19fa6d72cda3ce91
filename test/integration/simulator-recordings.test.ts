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
  readonly prompt_token_ids?: readonly number[];
  readonly token_ids?: readonly number[];
}

interface Line {
  readonly kind: string;
  readonly id?: string;
  readonly endpoint?: string;
  readonly frames?: readonly string[];
  readonly concurrent?: string;
  readonly status?: number;
  readonly path?: string;
  readonly body?: {
    readonly model?: string;
    readonly prompt?: unknown;
    readonly cache_salt?: string;
    readonly prompt_token_ids?: readonly number[];
    readonly choices?: readonly Choice[];
    readonly usage?: { readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null; readonly completion_tokens?: number };
  };
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
  });
  const simulated: string[] = [];
  const recorded: string[] = [];
  const recordedHits: number[] = [];
  const simulatedHits: number[] = [];
  let requests = 0;
  const responses = new Map(lines.filter((line) => line.kind === "response").map((line) => [line.id, line]));

  for (const line of lines) {
    if (line.kind === "frame" && line.endpoint === "live") recorded.push(recordedBatch(line));
    if (line.kind !== "request") continue;
    if (line.concurrent !== undefined) break;
    const body = responses.get(line.id)?.body;
    const [choice] = body?.choices ?? [];
    const prompt = choice?.prompt_token_ids ?? body?.prompt_token_ids ?? line.body?.prompt;
    // The oldest engines do not return the answer's ids: short of a block they do not matter, so any will do.
    const answer = choice?.token_ids ?? new Array<number>(body?.usage?.completion_tokens ?? 0).fill(0);
    if (!Array.isArray(prompt) || typeof prompt[0] !== "number" || answer.length === 0 || (body?.choices?.length ?? 0) !== 1) break;
    if (
      choice?.token_ids === undefined &&
      Math.floor((prompt.length + answer.length - 1) / meta.block_size) > Math.floor(prompt.length / meta.block_size)
    )
      break;
    requests += 1;
    const tokenIds = Uint32Array.from([...(prompt as number[]), ...answer]);
    const loraName = line.body?.model !== undefined && line.body.model !== meta.model ? line.body.model : null;
    const lora = loraName === null ? null : { id: Object.keys(loraPaths).indexOf(loraName) + 1, name: loraName };
    const cacheSalt = line.body?.cache_salt ?? null;
    const sequence = scheduler.add({
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
    recordedHits.push(body?.usage?.prompt_tokens_details?.cached_tokens ?? 0);
    simulatedHits.push(sequence.cachedTokens);
  }
  return { requests, recorded, simulated, recordedHits, simulatedHits };
}

function recordedBatch(line: Line): string {
  const batch = decodeEventBatch(Buffer.from(line.frames?.[2] ?? "", "hex"));
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
    ["v0.32-chats-b16", 20],
    ["v0.32-sha256-b64", 26],
    ["v0.32-chunked-prefill-b16", 11],
    ["v0.32-lora-b32", 17],
    ["v0.22.1-array-b16", 25],
    ["v0.11.2-array-b16", 25],
    ["v0.10.1-sha256cbor64bit-b16", 5],
  ])("emits the batches and reports the hits of %s", (file, atLeast) => {
    const outcome = replay(file);
    // The last batches of the recording can belong to the request that stopped the replay.
    expect(outcome.simulatedHits).toEqual(outcome.recordedHits);
    expect(outcome.simulated).toEqual(outcome.recorded.slice(0, outcome.simulated.length));
    expect(outcome.recorded.length - outcome.simulated.length).toBeLessThanOrEqual(0);
    expect(outcome.requests).toBeGreaterThanOrEqual(atLeast);
  });
});
