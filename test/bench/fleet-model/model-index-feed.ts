import type { IndexOp, IndexWriter } from "@kvatlas/shared/index/block-index";
import type { BlockKey } from "@kvatlas/shared/types";
import type { PoolEvent } from "@kvatlas/simulator/engine/pool-events";

/** Blocks of one engine's step as operations of the index; runs of equal kind are one operation. */
function opsOf(events: readonly PoolEvent[]): IndexOp[] {
  const ops: IndexOp[] = [];
  let removed: BlockKey[] = [];
  const flush = (): void => {
    if (removed.length > 0) ops.push({ op: "remove", medium: "gpu", group: 0, keys: removed });
    removed = [];
  };
  for (const event of events) {
    if (event.kind === "removed") removed.push(event.hash as BlockKey);
    else if (event.kind === "stored") {
      flush();
      ops.push({ op: "store", medium: "gpu", group: 0, keys: event.hashes as readonly BlockKey[] });
    }
  }
  flush();
  return ops;
}

/** Applies the steps of one engine to the index, in order, as the endpoint's ingester does. */
export class ModelIndexFeed {
  readonly #writer: IndexWriter;
  #seq: number;

  constructor(writer: IndexWriter) {
    this.#writer = writer;
    this.#seq = writer.applied;
  }

  async apply(events: readonly PoolEvent[]): Promise<void> {
    this.#seq += 1;
    await this.#writer.apply([{ seq: this.#seq, ops: opsOf(events) }]);
  }
}
