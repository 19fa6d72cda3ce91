import type { IndexOp, PrefixMatch } from "@kvatlas/shared/index/block-index";
import type { BlockKey, CacheGroup, EndpointId, Medium } from "@kvatlas/shared/types";

const media: readonly Medium[] = ["gpu", "cpu", "storage", "other"];

/**
 * What an index must answer, said in the plainest way: a list of copies per endpoint, forgotten with the incarnation, and every definition
 * tried out. Shares no code with the implementations.
 */
export class IndexOracle {
  readonly #copies = new Map<EndpointId, Map<string, Medium[]>>();

  reset(endpoint: EndpointId): void {
    this.#copies.set(endpoint, new Map());
  }

  apply(endpoint: EndpointId, { op, medium, group, keys }: IndexOp): void {
    const blocks = this.#copies.get(endpoint) ?? new Map<string, Medium[]>();
    this.#copies.set(endpoint, blocks);
    for (const key of keys) {
      const copies = blocks.get(`${group} ${key}`) ?? [];
      blocks.set(`${group} ${key}`, copies);
      if (op === "store" || (op === "confirm" && !copies.includes(medium))) copies.push(medium);
      else if (op === "confirm") continue;
      else if (copies.includes(medium)) copies.splice(copies.indexOf(medium), 1);
    }
  }

  /** Copies by medium, as `BlockHolder` has them; null when there are none. */
  copies(endpoint: EndpointId, group: number, key: BlockKey): Partial<Record<Medium, number>> | null {
    const list = this.#copies.get(endpoint)?.get(`${group} ${key}`) ?? [];
    if (list.length === 0) return null;
    return Object.fromEntries(
      media.flatMap((medium) => (list.includes(medium) ? [[medium, list.filter((each) => each === medium).length]] : [])),
    );
  }

  match(endpoint: EndpointId, keys: readonly BlockKey[], groups: readonly CacheGroup[]): PrefixMatch | null {
    const full = groups.filter(({ kind }) => kind === "full");
    const best = (group: number, position: number) => {
      const list = this.#copies.get(endpoint)?.get(`${group} ${keys[position]}`) ?? [];
      return media.findIndex((medium) => list.includes(medium));
    };
    for (let blocks = keys.length; blocks > 0; blocks -= 1) {
      const isHit = groups.every(({ id, kind, blockSizeTokens, windowTokens }) => {
        if (kind === "other") return true;
        const begin = kind === "full" ? 0 : Math.max(0, blocks - Math.ceil(((windowTokens ?? 1) - 1) / blockSizeTokens));
        for (let position = begin; position < blocks; position += 1) if (best(id, position) === -1) return false;
        return true;
      });
      if (!isHit) continue;
      const byMedium: Partial<Record<Medium, number>> = {};
      for (let position = 0; position < blocks; position += 1) {
        const medium = media[Math.max(...full.map(({ id }) => best(id, position)))];
        if (medium !== undefined) byMedium[medium] = (byMedium[medium] ?? 0) + 1;
      }
      return { blocks, byMedium };
    }
    return null;
  }
}
