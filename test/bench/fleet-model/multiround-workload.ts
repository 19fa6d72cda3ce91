import { fillTokens, type ModelRequest, type Workload } from "./workload.ts";

export interface MultiroundOptions {
  readonly users: number;
  readonly rounds: number;
  /** Shared by all users. */
  readonly systemTokens: number;
  /** What a user's conversation begins with. */
  readonly historyTokens: number;
  readonly questionTokens: number;
  readonly outputTokens: number;
  /** Each round of all users together, per second. */
  readonly requestsPerSecond: number;
}

/** The published multi-round conversation: 8 users, 15 rounds, a shared system prompt of 100 tokens and a history of 2,000 each. */
export const publishedMultiround: MultiroundOptions = {
  users: 8,
  rounds: 15,
  systemTokens: 100,
  historyTokens: 2_000,
  questionTokens: 60,
  outputTokens: 200,
  requestsPerSecond: 2,
};

/** Every user waits for an answer and then as long as `requestsPerSecond` allows; a prompt is the whole conversation so far, the answers included. */
export function multiroundWorkload(options: MultiroundOptions): Workload {
  const { users, rounds, systemTokens, historyTokens, questionTokens, outputTokens } = options;
  const first = systemTokens + historyTokens;
  const perRound = questionTokens + outputTokens;
  const requests: ModelRequest[] = [];
  for (let round = 0; round < rounds; round += 1) {
    for (let user = 0; user < users; user += 1) {
      const promptTokens = first + round * perRound + questionTokens;
      requests.push({
        atMs: round === 0 ? (user * 1000) / options.requestsPerSecond : (users * 1000) / options.requestsPerSecond,
        ...(round === 0 ? {} : { follows: (round - 1) * users + user }),
        promptTokens,
        outputTokens,
        tokens: () => {
          const tokens = new Uint32Array(promptTokens + outputTokens);
          fillTokens(tokens, 0, systemTokens, 0);
          fillTokens(tokens, systemTokens, tokens.length, 1 + user);
          return tokens;
        },
      });
    }
  }
  return { name: "multiround", blockSizeTokens: 16, phases: [{ name: "multiround", requests }] };
}
