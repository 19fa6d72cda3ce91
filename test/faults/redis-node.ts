import { rm } from "node:fs/promises";
import { join } from "node:path";
import { Redis } from "ioredis";
import { freePort, type RedisServer, startRedisServer } from "../support/redis-server.ts";

/** One Redis at one port that dies, stands still, and comes back with all, some or none of its data. */
export class RedisNode {
  readonly port: number;
  readonly #folder: string;
  #server: RedisServer | null = null;
  #client: Redis | null = null;

  private constructor(port: number, folder: string) {
    this.port = port;
    this.#folder = folder;
  }

  static async start(folder: string): Promise<RedisNode> {
    const node = new RedisNode(await freePort(), folder);
    await node.start();
    return node;
  }

  get address(): { readonly port: number } {
    return { port: this.port };
  }

  get isUp(): boolean {
    return this.#server !== null;
  }

  /** Starts it with what the last `save` has left. */
  async start(): Promise<void> {
    if (this.#server !== null) return;
    this.#server = await startRedisServer({ port: this.port, folder: this.#folder });
    this.#client = new Redis(this.port, "127.0.0.1", { retryStrategy: () => null, lazyConnect: true });
    this.#client.on("error", () => {});
    await this.#client.connect();
  }

  /** Keeps what it holds now for the next start. */
  async save(): Promise<void> {
    await this.#client?.save();
  }

  /** Keeps nothing for the next start. */
  async discard(): Promise<void> {
    await rm(join(this.#folder, "dump.rdb"), { force: true });
  }

  /** SIGKILL. */
  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = null;
    this.#client?.disconnect();
    this.#client = null;
    server?.resume();
    await server?.stop();
  }

  pause(): void {
    this.#server?.pause();
  }

  resume(): void {
    this.#server?.resume();
  }

  async forgetScripts(): Promise<void> {
    await this.#client?.script("FLUSH");
  }

  async disconnectClients(): Promise<void> {
    await this.#client?.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  }
}
