import type { PrefixMatches } from "@kvatlas/shared/index/block-index";
import type { EndpointId, Medium } from "@kvatlas/shared/types";
import type { KeyedQuery } from "./prompt-keys.ts";

/** What one endpoint holds of the prompts of a request. */
export interface Held {
  readonly tokens: number;
  readonly blocks: number;
  /** Tokens by medium; sums to `tokens`. */
  readonly byMedium: Readonly<Partial<Record<Medium, number>>>;
}

/** What is held where, of the prompts of one request. */
export interface Residency {
  readonly matches: ReadonlyMap<EndpointId, Held>;
  /** Blocks that were looked up. */
  readonly blocks: number;
  /** Key of the first block that nobody holds (else the last one): where this prompt parts from those that share its beginning. */
  readonly partingKey: string | null;
}

export const heldNowhere: Residency = { matches: new Map(), blocks: 0, partingKey: null };

/** Sums what each endpoint holds over the queries that are computed its way. */
export function residencyOf(queries: readonly KeyedQuery[], found: readonly PrefixMatches[]): Residency {
  const matches = new Map<EndpointId, { tokens: number; blocks: number; byMedium: Partial<Record<Medium, number>> }>();
  let partingKey: string | null = null;
  for (let i = 0; i < queries.length; i++) {
    const keyed = queries[i];
    const held = found[i];
    if (keyed === undefined || held === undefined) continue;
    const { keys } = keyed.query;
    let longest = 0;
    for (const [endpoint, match] of held) {
      if (!keyed.endpoints.has(endpoint)) continue;
      longest = Math.max(longest, match.blocks);
      let sum = matches.get(endpoint);
      if (sum === undefined) {
        sum = { tokens: 0, blocks: 0, byMedium: {} };
        matches.set(endpoint, sum);
      }
      sum.blocks += match.blocks;
      sum.tokens += match.blocks * keyed.blockSizeTokens;
      for (const medium in match.byMedium) {
        const tokens = (match.byMedium[medium as Medium] ?? 0) * keyed.blockSizeTokens;
        sum.byMedium[medium as Medium] = (sum.byMedium[medium as Medium] ?? 0) + tokens;
      }
    }
    if (i === 0) partingKey = keys[Math.min(longest, keys.length - 1)] ?? null;
  }
  return { matches, blocks: totalBlocks(queries), partingKey };
}

/** Blocks of one way of computing keys: with several ways each prompt occurs once per way. */
function totalBlocks(queries: readonly KeyedQuery[]): number {
  const first = queries[0];
  if (first === undefined) return 0;
  return queries.filter((keyed) => keyed.endpoints === first.endpoints).reduce((sum, keyed) => sum + keyed.query.keys.length, 0);
}
