import { formatTable } from "../table.ts";
import { blockSizeTokens, type Cluster, modelName, prefillTokensPerSecond } from "./cluster.ts";
import type { QuickstartMode } from "./modes.ts";
import type { Played, Round } from "./play.ts";

/** A conversation through the router of one mode. */
export interface Outcome {
  readonly mode: QuickstartMode;
  readonly ok: boolean;
  /** One sentence: why `ok` is what it is. */
  readonly verdict: string;
  readonly played: Played;
}

export interface Result extends Outcome {
  /** Other conversations through routers of other modes. */
  readonly comparisons: readonly Outcome[];
}

/** What the router must find of round 2 in its mode: what the replica holds, or what was sent to it. */
export function knownTokens(mode: QuickstartMode, { expectedTokens, sentTokens }: Pick<Played, "expectedTokens" | "sentTokens">): number {
  return mode === "precise" ? expectedTokens : mode === "estimated" ? sentTokens : 0;
}

/** Did round 2 land where round 1 had left its blocks, with the match it had to have? */
export function judge(mode: QuickstartMode, played: Played): Outcome {
  return { mode, ...verdictOf(mode, played), played };
}

function verdictOf(mode: QuickstartMode, played: Played): Pick<Outcome, "ok" | "verdict"> {
  const {
    rounds: [one, two],
    expectedTokens,
  } = played;
  if (mode === "off") return { ok: true, verdict: "Both rounds were answered; with --mode off nothing is promised about where." };
  if (two.endpoint !== one.endpoint)
    return { ok: false, verdict: `Round 2 went to ${two.endpoint}, but ${one.endpoint} holds its prefix.` };
  const known = knownTokens(mode, played);
  if (known === 0) return { ok: false, verdict: "The conversation shares no full block, so it shows nothing." };
  if (two.matchedTokens !== known) {
    const there = mode === "precise" ? `the replica holds ${known}` : `${known} were sent to the replica`;
    return { ok: false, verdict: `The router found ${two.matchedTokens} tokens; ${there}.` };
  }
  if (two.cachedTokens !== expectedTokens) {
    return {
      ok: false,
      verdict: `${mode === "precise" ? "The router predicted" : "Round 1 left"} ${expectedTokens} tokens; the replica reused ${two.cachedTokens}.`,
    };
  }
  if (mode === "estimated") {
    return {
      ok: true,
      verdict: `Round 2 landed on the replica to which round 1 had been sent: the router knew of ${known} tokens, and the replica reused ${two.cachedTokens}${two.cachedTokens > known ? ", its own answer among them" : ""}.`,
    };
  }
  return {
    ok: true,
    verdict: `Round 2 landed on the replica that held its prefix: the router predicted ${expectedTokens} reusable tokens, and the replica reused ${two.cachedTokens}.`,
  };
}

const modeTexts: Readonly<Record<QuickstartMode, string>> = {
  precise: "precise: by what the replicas hold",
  estimated: "estimated: by what was sent where",
  off: "off: the same replicas by round robin",
};

/** What is running, before the conversation. */
export function describeCluster(cluster: Cluster, indexText: string): string {
  const rows = [
    ...cluster.simulators.map(({ url, topic }) => ["replica", url, `events as ${topic}`]),
    ["ingester", cluster.ingesterBind, "the replicas dial it with their KV-cache events"],
    ...cluster.routers.map(({ address, mode }) => ["router", `http://${address}`, `OpenAI API; ${modeTexts[mode]}`]),
  ];
  return [
    `${cluster.simulators.length} simulated vLLM replica${cluster.simulators.length === 1 ? "" : "s"} (${prefillTokensPerSecond} prompt tokens/s each, blocks of ${blockSizeTokens}), no GPU; index in ${indexText}`,
    "",
    formatTable(["what", "where", ""], rows),
  ].join("\n");
}

/** The rounds of every mode as tables, each with its verdict, and all of them side by side. */
export function describeResult({ comparisons, ...main }: Result): string {
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
  return [
    ...[main, ...comparisons].flatMap((outcome, place) => [
      `${place === 0 ? "Two rounds of a chat" : "Another chat of about the same length"}, mode ${outcome.mode}${outcome.mode === "off" ? " (round robin)" : ""}`,
      "",
      formatTable(head, rows(outcome.played)),
      place > 0 && outcome.mode === "off" ? explanationOf(outcome.played) : outcome.verdict,
      "",
    ]),
    ...(comparisons.length > 1 ? sideBySide([main, ...comparisons]) : []),
  ].join("\n");
}

function explanationOf({ rounds: [first, second] }: Played): string {
  return first.endpoint === second.endpoint
    ? "With one replica there is nothing to choose: it reuses its cache whoever routes."
    : `Round robin sent round 2 to another replica, which held ${second.cachedTokens} of its tokens and computed the rest again.`;
}

/** Round 2 of each mode. */
function sideBySide(outcomes: readonly Outcome[]): readonly string[] {
  const rows = outcomes.map(({ mode, played: { rounds } }) => {
    const [one, two] = rounds;
    return [
      mode,
      two.endpoint === one.endpoint ? "same as round 1" : "another one",
      String(two.matchedTokens),
      `${two.cachedTokens} of ${two.promptTokens}`,
      `${two.ttftMs.toFixed(0)} ms`,
    ];
  });
  return [
    "Round 2 side by side",
    "",
    formatTable(["mode", "replica", "matched by router", "reused by replica", "first token after"], rows),
    "",
  ];
}

/** What to try while everything is up. */
export function describeNextSteps(cluster: Cluster, redisCliLine: string | null): string {
  const address = cluster.routers[0]?.address ?? "";
  const body = `{"model": "${modelName}", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}`;
  return [
    "Try next",
    "",
    `  curl -i http://${address}/v1/chat/completions -H 'content-type: application/json' -d '${body}'`,
    `  curl -s http://${address}/kvatlas/v1/route -d '${body}'`,
    `  curl -s http://${address}/kvatlas/v1/endpoints`,
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
    comparisons: result.comparisons.map(({ mode, ok, verdict, played }) => ({
      mode,
      ...(mode === "off" ? { policy: "round-robin" } : {}),
      ok,
      verdict,
      expectedTokens: played.expectedTokens,
      rounds: played.rounds,
    })),
    router: `http://${cluster.routers[0]?.address}`,
    admin: `http://${cluster.routers[0]?.adminAddress}`,
    routers: cluster.routers.map(({ mode, address }) => ({ mode, url: `http://${address}` })),
    ingester: cluster.ingesterBind,
    replicas: cluster.simulators.map(({ url }) => url),
    model: modelName,
    blockSizeTokens,
    redisCli,
  };
}
