/** What the scheduler tells the publisher, before any wire form. Hashes are those of `Sequence.hashes`. */
export type PoolEvent = PoolStored | PoolRemoved | PoolCleared | HostStored | HostRemoved;

export type ExtraKey = string | readonly [identifier: string, offset: number];

export interface PoolStored {
  readonly kind: "stored";
  readonly hashes: readonly string[];
  /** Hash of the block before the first one; null for block 0. */
  readonly parent: string | null;
  /** Tokens of exactly these blocks. */
  readonly tokenIds: Uint32Array;
  readonly blockSizeTokens: number;
  readonly lora: { readonly id: number; readonly name: string } | null;
  /** Per block, untagged: LoRA name, identifier and offset of each image in it, the salt on block 0; null where there is none of it. */
  readonly extraKeys: readonly (readonly ExtraKey[] | null)[];
  readonly sessionId: string | null;
  /** Tokens after each block that went into its hash; null without lookahead hashing. */
  readonly lookahead: readonly (readonly number[])[] | null;
}

export interface PoolRemoved {
  readonly kind: "removed";
  readonly hash: string;
}

/** Blocks copied to host memory: hashes only (OffloadingConnector without self_describing_kv_events). */
export interface HostStored {
  readonly kind: "host-stored";
  readonly hashes: readonly string[];
  readonly blockSizeTokens: number;
  readonly lora: PoolStored["lora"];
}

export interface HostRemoved {
  readonly kind: "host-removed";
  readonly hashes: readonly string[];
}

export interface PoolCleared {
  readonly kind: "cleared";
}
