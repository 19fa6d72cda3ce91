import { type AddressInfo, createServer, type Server, Socket } from "node:net";

/**
 * What a link does to the bytes that pass: nothing; delays each of them; holds them back while connections stay open (a firewall that drops
 * packets, a hung host); or refuses and resets every connection.
 */
export type LinkState =
  | { readonly kind: "open" }
  | { readonly kind: "slow"; readonly delayMs: number }
  | { readonly kind: "stalled" | "cut" };

/** Bytes one direction of a connection may hold back before its sender has to wait. */
const maxHeldBytes = 1_048_576;

/** Asked for each connection; null: there is nobody, and the connection is reset. */
export type ProxyTarget = () => number | null;

/** A TCP link between two real processes that can be cut, stalled and slowed. Both are on the loopback interface. */
export class TcpProxy {
  readonly #server: Server;
  readonly #target: ProxyTarget;
  readonly #connections = new Set<Connection>();
  #state: LinkState = { kind: "open" };

  private constructor(target: ProxyTarget) {
    this.#target = target;
    this.#server = createServer((client) => this.#accept(client));
  }

  /** @param listenPort - 0: a free one */
  static async start(target: number | ProxyTarget, listenPort = 0): Promise<TcpProxy> {
    const proxy = new TcpProxy(typeof target === "number" ? () => target : target);
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once("error", reject);
      proxy.#server.listen(listenPort, "127.0.0.1", resolve);
    });
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get state(): LinkState {
    return this.#state;
  }

  /** Connections that are open now. */
  get connections(): number {
    return this.#connections.size;
  }

  set(state: LinkState): void {
    this.#state = state;
    for (const connection of [...this.#connections]) {
      if (state.kind === "cut") connection.destroy();
      else connection.stateChanged();
    }
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const connection of [...this.#connections]) connection.destroy();
    await closed;
  }

  #accept(client: Socket): void {
    const port = this.#state.kind === "cut" ? null : this.#target();
    if (port === null) {
      client.on("error", () => {});
      client.resetAndDestroy();
      return;
    }
    const connection = new Connection(client, port, () => this.#state);
    this.#connections.add(connection);
    connection.onClose(() => this.#connections.delete(connection));
  }
}

/** A client, its connection to the target, and what is under way between them. */
class Connection {
  readonly #client: Socket;
  readonly #upstream = new Socket();
  readonly #ways: readonly [OneWay, OneWay];
  readonly #listeners: (() => void)[] = [];
  #isDestroyed = false;

  constructor(client: Socket, port: number, state: () => LinkState) {
    this.#client = client;
    client.setNoDelay(true);
    this.#upstream.setNoDelay(true);
    this.#ways = [new OneWay(client, this.#upstream, state), new OneWay(this.#upstream, client, state)];
    for (const socket of [client, this.#upstream]) {
      socket.on("error", () => this.destroy());
      socket.on("close", () => this.destroy());
    }
    this.#upstream.connect(port, "127.0.0.1");
  }

  onClose(listener: () => void): void {
    this.#listeners.push(listener);
  }

  stateChanged(): void {
    for (const way of this.#ways) way.stateChanged();
  }

  destroy(): void {
    if (this.#isDestroyed) return;
    this.#isDestroyed = true;
    for (const way of this.#ways) way.stop();
    this.#client.destroy();
    this.#upstream.destroy();
    for (const listener of this.#listeners) listener();
  }
}

/** One direction of a connection: bytes keep their order and wait until they are due. */
class OneWay {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #state: () => LinkState;
  readonly #held: { readonly bytes: Buffer; readonly dueAt: number }[] = [];
  #heldBytes = 0;
  #timer: NodeJS.Timeout | null = null;

  constructor(from: Socket, to: Socket, state: () => LinkState) {
    this.#from = from;
    this.#to = to;
    this.#state = state;
    from.on("data", (bytes: Buffer) => this.#push(bytes));
    to.on("drain", () => this.#resume());
  }

  stateChanged(): void {
    this.#release();
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#held.length = 0;
  }

  #push(bytes: Buffer): void {
    const state = this.#state();
    if (state.kind === "open" && this.#held.length === 0) {
      if (!this.#to.write(bytes)) this.#from.pause();
      return;
    }
    this.#held.push({ bytes, dueAt: performance.now() + (state.kind === "slow" ? state.delayMs : 0) });
    this.#heldBytes += bytes.byteLength;
    if (this.#heldBytes > maxHeldBytes) this.#from.pause();
    this.#release();
  }

  #release(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const state = this.#state();
    if (state.kind === "stalled" || state.kind === "cut") return;
    const now = performance.now();
    for (let first = this.#held[0]; first !== undefined; first = this.#held[0]) {
      if (state.kind === "slow" && first.dueAt > now) {
        this.#timer = setTimeout(() => this.#release(), first.dueAt - now);
        return;
      }
      this.#held.shift();
      this.#heldBytes -= first.bytes.byteLength;
      this.#to.write(first.bytes);
    }
    this.#resume();
  }

  #resume(): void {
    if (this.#heldBytes <= maxHeldBytes && !this.#to.writableNeedDrain) this.#from.resume();
  }
}
