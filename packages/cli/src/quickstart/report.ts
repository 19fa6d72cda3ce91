import { formatTable } from "../table.ts";
import { blockSizeTokens, type Cluster, modelName, prefillTokensPerSecond } from "./cluster.ts";
import type { Played, Round } from "./play.ts";

export interface Result {
  readonly ok: boolean;
  /** One sentence: why `ok` is what it is. */
  readonly verdict: string;
  readonly mode: "precise" | "off";
  readonly played: Played;
  /** The other conversation through the round-robin router; null with --mode off, which is round robin itself. */
  readonly comparison: Played | null;
}

/** Did round 2 land where round 1 had left its blocks, with the match it had to have? */
export function judge(mode: "precise" | "off", { rounds: [one, two], expectedTokens }: Played): Pick<Result, "ok" | "verdict"> {
  if (mode === "off") return { ok: true, verdict: "Both rounds were answered; with --mode off nothing is promised about where." };
  if (two.endpoint !== one.endpoint)
    return { ok: false, verdict: `Round 2 went to ${two.endpoint}, but ${one.endpoint} holds its prefix.` };
  if (expectedTokens === 0) return { ok: false, verdict: "The conversation shares no full block, so it shows nothing." };
  if (two.matchedTokens !== expectedTokens) {
    return { ok: false, verdict: `The router found ${two.matchedTokens} tokens; the replica holds ${expectedTokens}.` };
  }
  if (two.cachedTokens !== expectedTokens) {
    return { ok: false, verdict: `The router predicted ${expectedTokens} tokens; the replica reused ${two.cachedTokens}.` };
  }
  return {
    ok: true,
    verdict: `Round 2 landed on the replica that held its prefix: the router predicted ${expectedTokens} reusable tokens, and the replica reused ${two.cachedTokens}.`,
  };
}

/** What is running, before the conversation. */
export function describeCluster(cluster: Cluster, indexText: string): string {
  const rows = [
    ...cluster.simulators.map(({ url, topic }) => ["replica", url, `events as ${topic}`]),
    ["ingester", cluster.ingesterBind, "the replicas dial it with their KV-cache events"],
    ["router", `http://${cluster.routerAddress}`, "OpenAI API; precise routing"],
    ["router", `http://${cluster.baselineAddress}`, "the same replicas by round robin, for comparison"],
  ];
  return [
    `${cluster.simulators.length} simulated vLLM replica${cluster.simulators.length === 1 ? "" : "s"} (${prefillTokensPerSecond} prompt tokens/s each, blocks of ${blockSizeTokens}), no GPU; index in ${indexText}`,
    "",
    formatTable(["what", "where", ""], rows),
  ].join("\n");
}

/** The rounds as a table, the comparison beside them, and the verdict. */
export function describeResult({ played, comparison, verdict, mode }: Result): string {
  const head = ["", "replica", "prompt tokens", "matched by router", "reused by replica", "first token after"];
  const row = (name: string, round: Round) => [
    name,
    round.endpoint,
    String(round.promptTokens),
    String(round.matchedTokens),
    String(round.cachedTokens),
    `${round.ttftMs.toFixed(0)} ms`,
  ];
  const rows = ({ rounds: [one, two] }: Played) => [row("round 1", one), row("round 2", two)];
  const lines = [`Two rounds of a chat, mode ${mode}`, "", formatTable(head, rows(played)), verdict, ""];
  if (comparison === null) return lines.join("\n");
  const [first, second] = comparison.rounds;
  const explanation =
    first.endpoint === second.endpoint
      ? "With one replica there is nothing to choose: it reuses its cache whoever routes."
      : `Round robin sent round 2 to another replica, which held ${second.cachedTokens} of its tokens and computed the rest again.`;
  return [
    ...lines,
    "Another chat of about the same length, mode off (round robin)",
    "",
    formatTable(head, rows(comparison)),
    explanation,
    "",
  ].join("\n");
}

/** What to try while everything is up. */
export function describeNextSteps(cluster: Cluster, redisCliLine: string | null): string {
  const body = `{"model": "${modelName}", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}`;
  return [
    "Try next",
    "",
    `  curl -i http://${cluster.routerAddress}/v1/chat/completions -H 'content-type: application/json' -d '${body}'`,
    `  curl -s http://${cluster.routerAddress}/kvatlas/v1/route -d '${body}'`,
    `  curl -s http://${cluster.routerAddress}/kvatlas/v1/endpoints`,
    redisCliLine === null
      ? "  with --redis, or KVATLAS_REDIS_URL set, the index is in Redis, for redis-cli to look at"
      : `  ${redisCliLine}`,
    "",
  ].join("\n");
}

/** The one object of `--json`. */
export function resultJson(result: Result, cluster: Cluster, index: "memory" | "redis", redisCli: string | null): object {
  return {
    ok: result.ok,
    verdict: result.verdict,
    mode: result.mode,
    index,
    expectedTokens: result.played.expectedTokens,
    rounds: result.played.rounds,
    comparison: result.comparison === null ? null : { mode: "off", policy: "round-robin", rounds: result.comparison.rounds },
    router: `http://${cluster.routerAddress}`,
    admin: `http://${cluster.routerAdminAddress}`,
    baseline: `http://${cluster.baselineAddress}`,
    ingester: cluster.ingesterBind,
    replicas: cluster.simulators.map(({ url }) => url),
    model: modelName,
    blockSizeTokens,
    redisCli,
  };
}
