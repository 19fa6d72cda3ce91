import { createRandom } from "../statistics.ts";
import { fillTokens, type ModelRequest, type Phase, type Workload } from "./workload.ts";

export interface LadderOptions {
  readonly groups: number;
  readonly promptsPerGroup: number;
  readonly prefixTokens: number;
  readonly questionTokens: number;
  readonly outputTokens: number;
  /** Requests per second, and for how many seconds. */
  readonly warmUp: readonly [rate: number, seconds: number];
  readonly stages: readonly (readonly [rate: number, seconds: number])[];
}

/**
 * The published ladder ("73 % capacity": 8 replicas of Qwen3-32B with 307,328 tokens of KV cache each): 150 groups of 5 prompts, a prefix of 6,000 tokens
 * per group, questions of 1,200, answers of 1,000; Poisson arrivals; a stage begins when the one before has been answered.
 */
export const publishedLadder: LadderOptions = {
  groups: 150,
  promptsPerGroup: 5,
  prefixTokens: 6_000,
  questionTokens: 1_200,
  outputTokens: 1_000,
  warmUp: [15, 50],
  stages: [
    [3, 20],
    [10, 20],
    [15, 20],
    [20, 38],
    [22, 34],
    [25, 30],
    [30, 25],
    [35, 21],
    [40, 38],
    [43, 36],
    [46, 33],
    [49, 30],
    [52, 29],
    [55, 27],
    [57, 26],
    [60, 25],
  ],
};

/** KV cache of one replica of the published run, tokens. */
export const publishedCapacityTokens = 307_328;

/** Divides prefixes and questions without rest; coarser than an engine's 16, which changes nothing for prompts that share whole parts. */
const blockSizeTokens = 80;

/** Prompts come in turn, in an order that is shuffled anew each time around. */
export function ladderWorkload(options: LadderOptions): Workload {
  const next = createRandom(7);
  const uniform = (): number => (next() + 0.5) / 2 ** 32;
  const prompts = options.groups * options.promptsPerGroup;
  let order: number[] = [];
  let answers = 0;
  const request = (atMs: number): ModelRequest => {
    if (order.length === 0) order = shuffled(prompts, uniform);
    const prompt = order.pop() ?? 0;
    answers += 1;
    const answer = answers;
    const promptTokens = options.prefixTokens + options.questionTokens;
    return {
      atMs,
      promptTokens,
      outputTokens: options.outputTokens,
      tokens: () => {
        const tokens = new Uint32Array(promptTokens + options.outputTokens);
        fillTokens(tokens, 0, options.prefixTokens, prompt % options.groups);
        fillTokens(tokens, options.prefixTokens, promptTokens, 0x10000000 + prompt);
        fillTokens(tokens, promptTokens, tokens.length, 0x20000000 + answer);
        return tokens;
      },
    };
  };
  const stage = ([rate, seconds]: readonly [number, number], isWarmUp: boolean): Phase => {
    const requests: ModelRequest[] = [];
    for (let at = 0; requests.length < rate * seconds; at -= (Math.log(uniform()) * 1000) / rate) requests.push(request(at));
    return { name: isWarmUp ? "warm-up" : `${rate}/s`, isWarmUp, requests };
  };
  return { name: "ladder", blockSizeTokens, phases: [stage(options.warmUp, true), ...options.stages.map((one) => stage(one, false))] };
}

function shuffled(count: number, uniform: () => number): number[] {
  const order = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i -= 1) {
    const j = Math.floor(uniform() * (i + 1));
    const moved = order[i] ?? 0;
    order[i] = order[j] ?? 0;
    order[j] = moved;
  }
  return order;
}
