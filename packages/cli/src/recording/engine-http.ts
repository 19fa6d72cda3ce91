import { KvatlasError } from "@kvatlas/shared/errors";
import { request } from "undici";
import { isControl } from "./engine-run.ts";
import type { RecordingWriter } from "./recording-writer.ts";
import type { SendLine } from "./send-lines.ts";

export interface EngineHttpOptions {
  /** Base URL of the engine's HTTP server. */
  readonly url: string;
  /** For one whole answer. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

export interface EngineAnswer {
  readonly path: string;
  readonly status: number;
  readonly body: unknown;
}

/** Largest answer that is recorded: about a million streamed tokens. */
const maxAnswerBytes = 256 * 1024 * 1024;

/** Talks to an engine and writes down what was said. */
export class EngineHttp {
  readonly #writer: RecordingWriter;
  readonly #options: EngineHttpOptions;

  constructor(writer: RecordingWriter, options: EngineHttpOptions) {
    this.#writer = writer;
    this.#options = options;
  }

  /**
   * Answer to a GET, its body as JSON where it is JSON.
   *
   * @throws KVATLAS_ENDPOINT_UNAVAILABLE no answer
   */
  async ask(path: string): Promise<EngineAnswer> {
    const { status, text } = await this.#call(path, {});
    return { path, status, body: path === "/metrics" ? shortMetrics(text) : parsed(text) };
  }

  async writeAnswer({ path, status, body }: EngineAnswer): Promise<void> {
    await this.#writer.write("http", { method: "GET", path, request: null, status, body });
  }

  /**
   * Sends one request and writes it with its answer; a call that changes the engine goes down as one.
   *
   * @throws KVATLAS_ENDPOINT_UNAVAILABLE no answer; the request has been written
   */
  async send(id: string, { path, bodyText, headers }: SendLine): Promise<void> {
    if (isControl({ path })) {
      const { status, text } = await this.#call(path, { body: bodyText, headers });
      await this.#writer.write("http", { method: "POST", path, status, body: parsed(text) }, { name: "request", json: bodyText });
      return;
    }
    const named = Object.keys(headers).length === 0 ? {} : { headers };
    await this.#writer.write("request", { id, path, ...named }, { name: "body", json: bodyText });
    const { status, text, pieces, type } = await this.#call(path, { body: bodyText, headers });
    if (type.startsWith("text/event-stream")) await this.#writer.write("response", { id, status, sse: pieces });
    else
      await this.#writer.write("response", { id, status }, { name: "body", json: isJsonText(text) ? oneLine(text) : JSON.stringify(text) });
  }

  async #call(path: string, post: { readonly body?: string; readonly headers?: Readonly<Record<string, string>> }) {
    const { url, timeoutMs, signal } = this.#options;
    const timeout = AbortSignal.timeout(timeoutMs);
    try {
      const answer = await request(new URL(path, url), {
        method: post.body === undefined ? "GET" : "POST",
        body: post.body ?? null,
        headers: post.body === undefined ? {} : { "content-type": "application/json", ...post.headers },
        headersTimeout: 0,
        bodyTimeout: 0,
        signal: AbortSignal.any([signal, timeout]),
      });
      const type = answer.headers["content-type"];
      const decoder = new TextDecoder();
      const pieces: string[] = [];
      let bytes = 0;
      for await (const chunk of answer.body) {
        bytes += chunk.length;
        if (bytes > maxAnswerBytes) throw new Error(`the answer is longer than ${maxAnswerBytes} bytes`);
        pieces.push(decoder.decode(chunk, { stream: true }));
      }
      pieces.push(decoder.decode());
      return { status: answer.statusCode, pieces, text: pieces.join(""), type: typeof type === "string" ? type : "" };
    } catch (error) {
      const why = timeout.aborted ? `no complete answer within ${timeoutMs} ms` : error instanceof Error ? error.message : String(error);
      throw new KvatlasError("KVATLAS_ENDPOINT_UNAVAILABLE", `${new URL(path, url).href}: ${why}`, { cause: error });
    }
  }
}

/** Leaves out what nothing reads: help texts, histogram buckets, creation times. */
export function shortMetrics(text: string): string {
  return text
    .split("\n")
    .filter((line) => !line.startsWith("# HELP") && !/^\S*_(?:bucket|created)(?:\{| )/.test(line))
    .join("\n");
}

function parsed(text: string): unknown {
  return isJsonText(text) ? JSON.parse(text) : text;
}

function isJsonText(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Line ends between JSON tokens; inside strings they are escaped. */
function oneLine(json: string): string {
  return json.replaceAll(/[\r\n]+/g, " ").trim();
}
