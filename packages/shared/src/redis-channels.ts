/** Of a client of the library: what listening to channels takes. */
export interface ChannelClient {
  on(event: "message", listener: (channel: string) => void): unknown;
  subscribe(channel: string): Promise<unknown>;
  unsubscribe(channel: string): Promise<unknown>;
}

/** Who listens to which channel of one connection. Its client is made when somebody first listens, and repeats its subscriptions after a reconnection. */
export class ChannelListeners {
  readonly #connect: () => ChannelClient;
  readonly #listeners = new Map<string, Set<() => void>>();
  #client: ChannelClient | null = null;

  constructor(connect: () => ChannelClient) {
    this.#connect = connect;
  }

  /** @returns ends it */
  add(channel: string, listener: () => void): () => void {
    const client = this.#opened();
    const listeners = this.#listeners.get(channel) ?? new Set();
    if (listeners.size === 0) {
      this.#listeners.set(channel, listeners);
      // Rejects when the connection closes for good; until then it is repeated with every reconnection.
      client.subscribe(channel).catch(() => {});
    }
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
      if (listeners.size > 0 || this.#listeners.get(channel) !== listeners) return;
      this.#listeners.delete(channel);
      client.unsubscribe(channel).catch(() => {});
    };
  }

  /** Nobody hears anything any more. */
  clear(): void {
    this.#listeners.clear();
  }

  #opened(): ChannelClient {
    if (this.#client !== null) return this.#client;
    const client = this.#connect();
    client.on("message", (channel) => {
      for (const listener of this.#listeners.get(channel) ?? []) listener();
    });
    this.#client = client;
    return client;
  }
}
