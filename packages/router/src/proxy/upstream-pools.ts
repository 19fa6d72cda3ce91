import { Pool } from "undici";

export interface UpstreamPoolsOptions {
  readonly connectTimeoutMs: number;
}

/**
 * How long an idle connection is kept: shorter than vLLM keeps it (uvicorn's 5 s), so that no request is written into a connection the replica
 * is closing.
 */
const idleMs = 4_000;

/** One undici pool per address, made on first use. No limit of connections: a replica queues by itself, and knows how long its queue is. */
export class UpstreamPools {
  readonly #pools = new Map<string, Pool>();
  readonly #options: UpstreamPoolsOptions;

  constructor(options: UpstreamPoolsOptions) {
    this.#options = options;
  }

  /** Throws when the address is none. */
  get(address: string): Pool {
    let pool = this.#pools.get(address);
    if (pool === undefined) {
      pool = new Pool(`http://${address}`, {
        connect: { timeout: this.#options.connectTimeoutMs },
        pipelining: 1,
        keepAliveTimeout: idleMs,
        keepAliveMaxTimeout: idleMs,
        // Prompts queue and answers pause for as long as they like: the first byte has its own timer, the rest has none.
        headersTimeout: 0,
        bodyTimeout: 0,
      });
      this.#pools.set(address, pool);
    }
    return pool;
  }

  /** Lets go of the pools of all other addresses; their running answers finish. */
  retain(addresses: ReadonlySet<string>): void {
    for (const [address, pool] of this.#pools) {
      if (addresses.has(address)) continue;
      this.#pools.delete(address);
      void pool.close().catch(() => {});
    }
  }

  /** Cuts what is still running. */
  async destroy(): Promise<void> {
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    await Promise.all(pools.map((pool) => pool.destroy()));
  }
}
