import { once } from "node:events";
import { connect, type Socket } from "node:net";

/** One command as RESP. */
export function encodeCommand(words: readonly string[]): string {
  return `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`;
}

/** ":0\r\n" or ":1\r\n" */
const bytesPerReply = 4;

/** Commands sent as bytes that were made beforehand: a client that makes each command when it is sent is slower than the server that carries it out. */
export class PreparedCommands {
  readonly #socket: Socket;
  #received = 0;
  #wanted = Number.POSITIVE_INFINITY;
  #wake: (() => void) | null = null;
  #failure: Error | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      if (chunk.includes("-")) this.#fail(new Error(`Redis refuses: ${chunk.toString()}`));
      this.#received += chunk.length;
      if (this.#received >= this.#wanted) this.#wake?.();
    });
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("Redis has closed the connection")));
  }

  static async connect(port: number): Promise<PreparedCommands> {
    const socket = connect({ port, host: "127.0.0.1", noDelay: true });
    await once(socket, "connect");
    return new PreparedCommands(socket);
  }

  /** Sends groups of commands that answer with one digit each, `groupsUnderWay` at a time. */
  async send(groups: readonly { readonly bytes: Buffer; readonly commands: number }[], groupsUnderWay: number): Promise<void> {
    const ends: number[] = [];
    let end = this.#received;
    for (const { bytes, commands } of groups) {
      if (ends.length >= groupsUnderWay) await this.#until(ends[ends.length - groupsUnderWay] ?? 0);
      this.#socket.write(bytes);
      end += commands * bytesPerReply;
      ends.push(end);
    }
    await this.#until(end);
  }

  close(): void {
    this.#socket.removeAllListeners("close").destroy();
  }

  async #until(received: number): Promise<void> {
    while (this.#received < received && this.#failure === null) {
      this.#wanted = received;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#failure !== null) throw this.#failure;
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#wake?.();
  }
}
