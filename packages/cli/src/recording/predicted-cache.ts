import { GroupCatalog } from "@kvatlas/ingester/pipeline/group-catalog";
import { nativeTranslator } from "@kvatlas/ingester/pipeline/key-translator";
import type { KvEvent } from "@kvatlas/shared/events/events";
import { createContentKeyMapper } from "@kvatlas/shared/hashing/content-keys";
import { scopeIdOf } from "@kvatlas/shared/hashing/key-scheme";
import type { DetectedScheme } from "@kvatlas/shared/hashing/scheme-detector";
import type { IndexOp, IndexWriter } from "@kvatlas/shared/index/block-index";
import { MemoryBlockIndex } from "@kvatlas/shared/index/memory-block-index";
import type { BlockKey, CacheGroup, EndpointId, EngineHash, ScopeId } from "@kvatlas/shared/types";
import type { EngineBatch } from "./engine-stream.ts";

/** What an index built from a publisher's batches says about its cache. One engine start; batches are applied in order. */
export class PredictedCache {
  readonly #index = new MemoryBlockIndex();
  readonly #scope: ScopeId;
  readonly #endpoint: EndpointId;
  readonly #groups = new GroupCatalog();
  readonly #toOps: (seq: number, events: readonly KvEvent[]) => Promise<readonly IndexOp[]>;
  readonly #content: ContentTable | null;
  #incarnation = 1;
  #writer: IndexWriter | null = null;

  constructor(found: DetectedScheme, model: string, endpoint: string) {
    const { scheme, blockSizeTokens } = found;
    this.#scope = scopeIdOf({ model, blockSizeTokens, scheme });
    this.#endpoint = endpoint as EndpointId;
    const content = scheme.kind === "content" ? new ContentTable(scheme.seed, model) : null;
    this.#content = content;
    this.#toOps = async (seq, events) => (content === null ? nativeTranslator.translate(seq, events) : content.translate(events));
  }

  /** Cache groups that the stores so far have told of. */
  get groups(): readonly CacheGroup[] {
    return this.#groups.list();
  }

  /** Stored blocks that have no key, because only their hashes or masked tokens are known; they may be missing from a prediction. */
  get unkeyed(): number {
    return this.#content?.unkeyed ?? 0;
  }

  async apply({ seq, batch }: EngineBatch): Promise<void> {
    const cleared = batch.events.findLastIndex((event) => event.kind === "cleared");
    if (cleared >= 0) {
      this.#incarnation++;
      this.#writer = null;
    }
    const events = batch.events.slice(cleared + 1);
    for (const event of events) if (event.kind === "stored") this.#groups.learn(event);
    this.#writer ??= await this.#index.openWriter({
      scope: this.#scope,
      endpoint: this.#endpoint,
      incarnation: this.#incarnation,
      from: seq,
      fence: this.#incarnation,
    });
    await this.#writer.apply([{ seq, ops: await this.#toOps(seq, events) }]);
  }

  /** Whether the block is there at all. */
  async holds(key: BlockKey): Promise<boolean> {
    return (await this.#index.holders(this.#scope, key)).some(({ live }) => live);
  }

  /** Leading blocks of the chain that the engine would take from its cache. */
  async matchedBlocks(keys: readonly BlockKey[]): Promise<number> {
    const groups = this.#groups.list();
    const query = { scope: this.#scope, keys, ...(groups.length === 0 ? {} : { groups: new Map([[this.#endpoint, groups]]) }) };
    const [matches] = await this.#index.lookup([query]);
    return matches?.get(this.#endpoint)?.blocks ?? 0;
  }
}

/** Engine hash -> content key, for engines whose hashes cannot be reproduced. */
class ContentTable {
  readonly #mapper: ReturnType<typeof createContentKeyMapper>;
  readonly #keys = new Map<EngineHash, BlockKey>();
  unkeyed = 0;

  constructor(seed: string, model: string) {
    this.#mapper = createContentKeyMapper({ seed, model });
  }

  translate(events: readonly KvEvent[]): readonly IndexOp[] {
    const ops: IndexOp[] = [];
    for (const event of events) {
      if (event.kind === "cleared") continue;
      if (event.kind === "removed") {
        const keys = event.hashes.map((hash) => this.#keys.get(hash)).filter((key) => key !== undefined);
        ops.push({ op: "remove", medium: event.medium, group: event.group, keys });
        continue;
      }
      const parentKey = event.parent === null ? null : this.#keys.get(event.parent);
      const mapped = parentKey === undefined ? null : this.#mapper.keysOf(event, parentKey);
      if (mapped === null || "obstacle" in mapped) {
        const known = event.hashes.map((hash) => this.#keys.get(hash)).filter((key) => key !== undefined);
        this.unkeyed += event.hashes.length - known.length;
        ops.push({ op: "store", medium: event.medium, group: event.group, keys: known });
        continue;
      }
      for (const [i, hash] of event.hashes.entries()) {
        const key = mapped.keys[i];
        if (key !== undefined) this.#keys.set(hash, key);
      }
      ops.push({ op: "store", medium: event.medium, group: event.group, keys: mapped.keys });
    }
    return ops;
  }
}
