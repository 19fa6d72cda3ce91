import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import { readNumbers, readOptions } from "./arguments.ts";
import { ModelReplica } from "./fleet-model/model-replica.ts";
import { ModelTime } from "./fleet-model/model-time.ts";
import { publishedLatency } from "./fleet-model/run-fleet.ts";
import { fillTokens } from "./fleet-model/workload.ts";
import { round } from "./statistics.ts";

export const usage = `npm run bench -- disaggregation [--uncached 64,128,256,512,1024,2048,4096,8192] [--sequences 8,32,128] [--gigabytes 25]

What it costs to compute a prompt as a whole where others decode, and to divide it: one request whose last N tokens are not cached comes to a replica that is
producing so many answers. Own: its time to first token. Others: how much later all their answers end, summed. Dividing saves what
own and others together are less. Useful: part of the time of a replica for prefill that goes into tokens and not into the step that each request takes there. The replica for prefill is idle and holds the same prefix; KV blocks of 256 KiB a token (Qwen3-32B, 16 bits) go over so many gigabytes per second.`;

const blockSizeTokens = 16;
const prefixTokens = 4_096;
const kvBytesPerToken = 262_144;
/** An HTTP request to another replica and back, beside what its engine takes. */
const hopMs = 2;
/** The caches have been filled by then, and all answers have begun. */
const othersAtMs = 3_000;
const probeAtMs = 15_000;
/** Answers go on for longer than the request takes. */
const otherPromptTokens = 512;
const otherAnswerTokens = 1_500;

/** Time that the model says, not a decision: where to divide is `router.disaggregation.minUncachedTokens`. */
export async function run(args: readonly string[]): Promise<object> {
  const options = readOptions(args, { values: ["uncached", "sequences", "gigabytes"], flags: ["json"] });
  const uncached = readNumbers(options.value("uncached") ?? "64,128,256,512,1024,2048,4096,8192", "--uncached");
  const sequences = readNumbers(options.value("sequences") ?? "8,32,128", "--sequences");
  const gigabytes = readNumbers(options.value("gigabytes") ?? "25", "--gigabytes")[0] ?? 25;
  const runs = [];
  for (const others of sequences) {
    const alone = await play({ others, uncachedTokens: 16, how: "none", gigabytes });
    for (const uncachedTokens of uncached) {
      const [whole, divided] = [
        await play({ others, uncachedTokens, how: "whole", gigabytes }),
        await play({ others, uncachedTokens, how: "divided", gigabytes }),
      ].map(({ ownMs, othersEndMs }) => ({ ownMs: round(ownMs, 1), othersMs: round(othersEndMs - alone.othersEndMs, 1) }));
      const costOf = (side: typeof whole) => (side?.ownMs ?? 0) + (side?.othersMs ?? 0);
      const computingMs = (1_000 * uncachedTokens) / publishedLatency.prefillTokensPerSecond;
      runs.push({
        others,
        uncachedTokens,
        whole,
        divided,
        dividingSavesMs: round(costOf(whole) - costOf(divided), 1),
        usefulPrefillPercent: round((100 * computingMs) / (computingMs + publishedLatency.decodeMs), 0),
      });
    }
  }
  return { model: "discrete events; simulator engine core", latency: publishedLatency, prefixTokens, gigabytesPerSecond: gigabytes, runs };
}

interface Played {
  /** Time to first token of the request. */
  readonly ownMs: number;
  /** When the others' answers ended, summed. */
  readonly othersEndMs: number;
}

async function play(one: {
  readonly others: number;
  readonly uncachedTokens: number;
  readonly how: "none" | "whole" | "divided";
  readonly gigabytes: number;
}): Promise<Played> {
  const time = new ModelTime();
  const hasher = createBlockHasher({ scheme: { kind: "native", algorithm: "xxhash_cbor", seed: "0" }, blockSizeTokens, model: "model" });
  const replica = () =>
    new ModelReplica(time, () => {}, {
      blockSizeTokens,
      capacityTokens: 400_000,
      latency: publishedLatency,
      maxNumSeqs: 256,
      maxNumBatchedTokens: 8_192,
    });
  const [decode, prefill] = [replica(), replica()];
  const promptTokens = prefixTokens + one.uncachedTokens;
  const prompt = new Uint32Array(promptTokens + 64);
  fillTokens(prompt, 0, prefixTokens, 1);
  fillTokens(prompt, prefixTokens, prompt.length, 2);
  const nothing = { onFirstToken: () => {}, onFinished: () => {}, onLost: () => {} };
  const submit = (at: ModelReplica, tokens: Uint32Array, length: number, told: Partial<typeof nothing>): void =>
    at.submit(tokens, length, hasher.chain(tokens).keys, { ...nothing, ...told });

  // What is cached: the prefix on both; where blocks are handed over, all of the prompt where it is answered.
  const held = prompt.subarray(0, (one.how === "divided" ? promptTokens : prefixTokens) + 1);
  submit(decode, held, held.length - 1, {});
  submit(prefill, prompt.subarray(0, prefixTokens + 1), prefixTokens, {});
  let open = one.others + (one.how === "none" ? 0 : 1);
  let othersEndMs = 0;
  for (let i = 0; i < one.others; i += 1) {
    const tokens = new Uint32Array(otherPromptTokens + otherAnswerTokens);
    fillTokens(tokens, 0, tokens.length, 100 + i);
    time.after(othersAtMs, () =>
      submit(decode, tokens, otherPromptTokens, {
        onFinished: () => {
          open -= 1;
          othersEndMs += time.elapsedMs;
        },
      }),
    );
  }
  let ownMs = 0;
  const answer = (): void =>
    submit(decode, prompt, promptTokens, {
      onFirstToken: () => {
        ownMs = time.elapsedMs - probeAtMs;
      },
      onFinished: () => {
        open -= 1;
      },
    });
  time.after(probeAtMs, () => {
    if (one.how === "whole") answer();
    if (one.how !== "divided") return;
    const transferMs = (one.uncachedTokens * kvBytesPerToken) / (one.gigabytes * 1e6);
    submit(prefill, prompt.subarray(0, promptTokens + 1), promptTokens, {
      onFirstToken: () => void time.after(hopMs + transferMs, answer),
    });
  });
  await time.run(() => open === 0);
  return { ownMs, othersEndMs };
}
