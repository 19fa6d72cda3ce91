import { KvatlasError } from "../errors.ts";
import type { BlockKey, CacheGroupId, EndpointId, Medium, ScopeId } from "../types.ts";
import type {
  ApplyResult,
  BlockHolder,
  BlockIndex,
  BlockName,
  IndexCensus,
  IndexedBlock,
  IndexOp,
  IndexPosition,
  IndexWriter,
  LookupOptions,
  PrefixMatch,
  PrefixMatches,
  PrefixQuery,
  ScopeCensus,
  SequencedOps,
  WriterTarget,
} from "./block-index.ts";
import { tally } from "./index-census.ts";
import { ABSENT, exactMatch, layoutsOf } from "./prefix-match.ts";
import { holderField, mediaByRank, nameField, parseHolderField } from "./redis-keys.ts";

interface MemoryEntry {
  incarnation: number;
  readonly copies: Partial<Record<Medium, number>>;
}

interface MemoryPosition {
  readonly incarnation: number;
  readonly fence: number;
  applied: number;
  /** By what the engine calls them. */
  readonly names: Map<string, BlockKey>;
}

interface MemoryScope {
  /** By block key, then by holder field. */
  readonly blocks: Map<BlockKey, Map<string, MemoryEntry>>;
  readonly positions: Map<EndpointId, MemoryPosition>;
  /** Iterators of sweeps and walks under way, by cursor; at most {@link MAX_WALKS}. */
  readonly walks: Map<string, IterableIterator<BlockKey>>;
}

const MAX_WALKS = 8;

/**
 * The index of one process, without Redis; also what other implementations are compared with, so it does the plain thing:
 * every lookup looks at every block.
 * Memory grows with the blocks that the endpoints hold, plus those of departed incarnations until `sweep` has passed over them.
 */
export class MemoryBlockIndex implements BlockIndex {
  readonly #scopes = new Map<ScopeId, MemoryScope>();
  #cursors = 0;

  async openWriter(target: WriterTarget): Promise<IndexWriter> {
    const scope = this.#scope(target.scope);
    const { endpoint, incarnation, fence } = target;
    const current = scope.positions.get(endpoint);
    if (current !== undefined) checkTarget(target, current);
    const applied = current?.incarnation === incarnation ? current.applied : target.from - 1;
    const names = current?.incarnation === incarnation ? current.names : new Map<string, BlockKey>();
    scope.positions.set(endpoint, { incarnation, fence, applied, names });
    return new MemoryWriter(scope, target);
  }

  async lookup(queries: readonly PrefixQuery[], options: LookupOptions = {}): Promise<readonly PrefixMatches[]> {
    if (options.signal?.aborted) {
      throw new KvatlasError("KVATLAS_DEADLINE_EXCEEDED", "Lookup was cancelled before it began.", { cause: options.signal.reason });
    }
    return queries.map((query) => this.#match(query));
  }

  async holders(scope: ScopeId, key: BlockKey): Promise<readonly BlockHolder[]> {
    const state = this.#scopes.get(scope);
    return state === undefined ? [] : holdersIn(state, key);
  }

  async keysOf(
    scope: ScopeId,
    { endpoint, incarnation }: { readonly endpoint: EndpointId; readonly incarnation: number },
    names: readonly BlockName[],
  ): Promise<readonly (BlockKey | null)[]> {
    const position = this.#scopes.get(scope)?.positions.get(endpoint);
    return keysUnder(position?.incarnation === incarnation ? position : undefined, names);
  }

  async forget(scope: ScopeId, endpoint: EndpointId): Promise<void> {
    this.#scopes.get(scope)?.positions.delete(endpoint);
  }

  async sweep(
    scope: ScopeId,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly examined: number; readonly dropped: number }> {
    const state = this.#scopes.get(scope);
    if (state === undefined) return { next: null, examined: 0, dropped: 0 };
    const { next, keys } = this.#page(state, cursor, limit);
    const dropped = keys.reduce((sum, key) => sum + dropDead(state, key), 0);
    return { next, examined: keys.length, dropped };
  }

  async reclaim(
    used: ReadonlySet<ScopeId>,
  ): Promise<{ readonly next: string | null; readonly examined: number; readonly dropped: number }> {
    let dropped = 0;
    for (const [scope, { positions, blocks }] of this.#scopes) {
      if (used.has(scope) || positions.size > 0) continue;
      dropped += blocks.size;
      this.#scopes.delete(scope);
    }
    return { next: null, examined: dropped, dropped };
  }

  async walk(
    scope: ScopeId,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly blocks: readonly IndexedBlock[] }> {
    const state = this.#scopes.get(scope);
    if (state === undefined) return { next: null, blocks: [] };
    const { next, keys } = this.#page(state, cursor, limit);
    return { next, blocks: keys.map((key) => ({ key, holders: holdersIn(state, key) })) };
  }

  async positions(scope: ScopeId): Promise<ReadonlyMap<EndpointId, IndexPosition>> {
    const positions = [...(this.#scopes.get(scope)?.positions ?? [])];
    return new Map(positions.map(([endpoint, { incarnation, fence, applied }]) => [endpoint, { incarnation, fence, applied }]));
  }

  async census(): Promise<IndexCensus> {
    const scopes = new Map([...this.#scopes].map(([id, state]) => [id, count(state)]));
    const total = [...scopes.values()].reduce((sum, { blocks }) => sum + blocks, 0);
    return { scopes, isExact: true, examined: total, total };
  }

  async close(): Promise<void> {}

  /** The next keys of a walk that goes on where `cursor` ended; an unknown cursor begins anew, which does no harm. */
  #page(state: MemoryScope, cursor: string, limit: number): { readonly next: string | null; readonly keys: readonly BlockKey[] } {
    const iterator = state.walks.get(cursor) ?? state.blocks.keys();
    state.walks.delete(cursor);
    const keys: BlockKey[] = [];
    while (keys.length < limit) {
      const next = iterator.next();
      if (next.done) return { next: null, keys };
      keys.push(next.value);
    }
    if (state.walks.size >= MAX_WALKS) {
      const [oldest] = state.walks.keys();
      if (oldest !== undefined) state.walks.delete(oldest);
    }
    this.#cursors += 1;
    const next = String(this.#cursors);
    state.walks.set(next, iterator);
    return { next, keys };
  }

  #scope(id: ScopeId): MemoryScope {
    let scope = this.#scopes.get(id);
    if (scope === undefined) {
      scope = { blocks: new Map(), positions: new Map(), walks: new Map() };
      this.#scopes.set(id, scope);
    }
    return scope;
  }

  #match(query: PrefixQuery): PrefixMatches {
    const scope = this.#scopes.get(query.scope);
    const matches = new Map<EndpointId, PrefixMatch>();
    if (scope === undefined) return matches;
    const layouts = layoutsOf(query.groups);
    const rankAt = (position: number, endpoint: EndpointId, group: CacheGroupId): number => {
      const key = query.keys[position];
      const entry = key === undefined ? undefined : scope.blocks.get(key)?.get(holderField(endpoint, group));
      if (entry === undefined || entry.incarnation !== scope.positions.get(endpoint)?.incarnation) return ABSENT;
      const best = mediaByRank.findIndex((medium) => entry.copies[medium] !== undefined);
      return best === -1 ? ABSENT : best;
    };
    for (const endpoint of scope.positions.keys()) {
      const match = exactMatch(query.keys.length, endpoint, layouts.get(endpoint), rankAt);
      if (match !== null) matches.set(endpoint, match);
    }
    return matches;
  }
}

class MemoryWriter implements IndexWriter {
  readonly target: WriterTarget;
  readonly #scope: MemoryScope;

  constructor(scope: MemoryScope, target: WriterTarget) {
    this.#scope = scope;
    this.target = target;
  }

  get applied(): number {
    const position = this.#scope.positions.get(this.target.endpoint);
    return position?.incarnation === this.target.incarnation ? position.applied : this.target.from - 1;
  }

  async apply(batches: readonly SequencedOps[]): Promise<ApplyResult> {
    const position = this.#checkedPosition();
    let applied = 0;
    let duplicates = 0;
    let unknownRemovals = 0;
    for (const { seq, ops } of batches) {
      if (seq <= position.applied) {
        duplicates += 1;
        continue;
      }
      for (const op of ops) unknownRemovals += this.#applyOp(op, position.names);
      position.applied = seq;
      applied += 1;
    }
    return { applied, duplicates, unknownRemovals };
  }

  async keysOf(names: readonly BlockName[]): Promise<readonly (BlockKey | null)[]> {
    const position = this.#scope.positions.get(this.target.endpoint);
    return keysUnder(position?.incarnation === this.target.incarnation ? position : undefined, names);
  }

  async settle(): Promise<void> {}

  async verify(): Promise<void> {
    this.#checkedPosition();
  }

  #checkedPosition(): MemoryPosition {
    const position = this.#scope.positions.get(this.target.endpoint);
    if (position === undefined) {
      throw new KvatlasError(
        "KVATLAS_INDEX_STALE_INCARNATION",
        `The index has forgotten endpoint ${this.target.endpoint}. Start a new incarnation to write again.`,
      );
    }
    checkTarget(this.target, position);
    return position;
  }

  #applyOp(op: IndexOp, names: Map<string, BlockKey>): number {
    let unknown = 0;
    for (const [i, key] of op.keys.entries()) {
      const hash = op.names?.[i];
      const name = hash === undefined ? null : nameField(hash, op.group);
      if (op.op !== "remove") {
        this.#store(key, op);
        if (name !== null) names.set(name, key);
      } else {
        if (!this.#remove(key, op)) unknown += 1;
        if (name !== null && !this.#holds(key, op)) names.delete(name);
      }
    }
    return unknown;
  }

  #holds(key: BlockKey, { group }: IndexOp): boolean {
    const { endpoint, incarnation } = this.target;
    return this.#scope.blocks.get(key)?.get(holderField(endpoint, group))?.incarnation === incarnation;
  }

  #store(key: BlockKey, { op, medium, group }: IndexOp): void {
    const { endpoint, incarnation } = this.target;
    let holders = this.#scope.blocks.get(key);
    if (holders === undefined) {
      holders = new Map();
      this.#scope.blocks.set(key, holders);
    }
    const field = holderField(endpoint, group);
    const entry = holders.get(field);
    if (entry?.incarnation === incarnation) {
      const copies = entry.copies[medium] ?? 0;
      entry.copies[medium] = op === "confirm" ? Math.max(1, copies) : copies + 1;
    } else holders.set(field, { incarnation, copies: { [medium]: 1 } });
  }

  /** False when the endpoint was not known to hold it. */
  #remove(key: BlockKey, { medium, group }: IndexOp): boolean {
    const { endpoint, incarnation } = this.target;
    const holders = this.#scope.blocks.get(key);
    const field = holderField(endpoint, group);
    const entry = holders?.get(field);
    if (holders === undefined || entry === undefined || entry.incarnation !== incarnation) return false;
    const copies = entry.copies[medium];
    if (copies === undefined) return false;
    if (copies > 1) {
      entry.copies[medium] = copies - 1;
      return true;
    }
    delete entry.copies[medium];
    if (Object.keys(entry.copies).length > 0) return true;
    holders.delete(field);
    if (holders.size === 0) this.#scope.blocks.delete(key);
    return true;
  }
}

function keysUnder(position: MemoryPosition | undefined, names: readonly BlockName[]): readonly (BlockKey | null)[] {
  return names.map(({ hash, group }) => position?.names.get(nameField(hash, group)) ?? null);
}

function checkTarget(target: WriterTarget, current: MemoryPosition): void {
  if (current.fence > target.fence) {
    throw new KvatlasError(
      "KVATLAS_INDEX_FENCED",
      `Endpoint ${target.endpoint} was taken over with fence ${current.fence}; fence ${target.fence} may no longer write. Stop this writer.`,
    );
  }
  if (current.incarnation > target.incarnation) {
    throw new KvatlasError(
      "KVATLAS_INDEX_STALE_INCARNATION",
      `Endpoint ${target.endpoint} is at incarnation ${current.incarnation}; ${target.incarnation} is past. Open a writer for the current one.`,
    );
  }
}

function holdersIn(scope: MemoryScope, key: BlockKey): readonly BlockHolder[] {
  return [...(scope.blocks.get(key) ?? [])].map(([field, entry]) => {
    const holder = parseHolderField(field);
    const live = scope.positions.get(holder.endpoint)?.incarnation === entry.incarnation;
    return { ...holder, incarnation: entry.incarnation, live, copies: { ...entry.copies } };
  });
}

function count(scope: MemoryScope): ScopeCensus {
  const holders = new Map<EndpointId, { live: number; dead: number }>();
  for (const key of scope.blocks.keys()) for (const holder of holdersIn(scope, key)) tally(holders, holder);
  return { blocks: scope.blocks.size, holders, bytes: null };
}

function dropDead(scope: MemoryScope, key: BlockKey): number {
  const holders = scope.blocks.get(key);
  if (holders === undefined) return 0;
  let dropped = 0;
  for (const [field, entry] of holders) {
    if (scope.positions.get(parseHolderField(field).endpoint)?.incarnation === entry.incarnation) continue;
    holders.delete(field);
    dropped += 1;
  }
  if (holders.size === 0) scope.blocks.delete(key);
  return dropped;
}
