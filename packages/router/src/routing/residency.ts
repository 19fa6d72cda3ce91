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
  /** Endpoints whose match is longer than their events say. */
  readonly speculated?: ReadonlySet<EndpointId>;
}

export const heldNowhere: Residency = { matches: new Map(), blocks: 0, partingKey: null };

/** Leading blocks of each query that endpoints count as holding ahead of their events. */
export type Marks = readonly ReadonlyMap<EndpointId, number>[];

/** Sums what each endpoint holds over the queries that are computed its way. */
export function residencyOf(queries: readonly KeyedQuery[], found: readonly PrefixMatches[], marks: Marks = []): Residency {
  const matches = new Map<EndpointId, { tokens: number; blocks: number; byMedium: Partial<Record<Medium, number>> }>();
  const speculated = new Set<EndpointId>();
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
    for (const [endpoint, blocks] of marks[i] ?? []) {
      const more = blocks - (held.get(endpoint)?.blocks ?? 0);
      if (more <= 0) continue;
      longest = Math.max(longest, blocks);
      const sum = matches.get(endpoint) ?? { tokens: 0, blocks: 0, byMedium: {} };
      matches.set(endpoint, sum);
      const tokens = more * keyed.blockSizeTokens;
      sum.blocks += more;
      sum.tokens += tokens;
      sum.byMedium.gpu = (sum.byMedium.gpu ?? 0) + tokens;
      speculated.add(endpoint);
    }
    if (i === 0) partingKey = keys[Math.min(longest, keys.length - 1)] ?? null;
  }
  return { matches, blocks: totalBlocks(queries), partingKey, speculated };
}

/** Blocks of one way of computing keys: with several ways each prompt occurs once per way. */
function totalBlocks(queries: readonly KeyedQuery[]): number {
  const first = queries[0];
  if (first === undefined) return 0;
  return queries.filter((keyed) => keyed.endpoints === first.endpoints).reduce((sum, keyed) => sum + keyed.query.keys.length, 0);
}
