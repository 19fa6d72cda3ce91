/** How a streamed request ended. */
export interface StreamEnd {
  /** `refused`: with a status other than 200, or without any. `cut`: after it had begun. */
  readonly outcome: "completed" | "cut" | "refused";
  readonly endpoint: string | null;
  readonly mode: string | null;
  readonly detail: string;
}

export interface StreamLoadOptions {
  /** Of a router. */
  readonly url: string;
  readonly model: string;
  readonly workers: number;
  readonly maxTokens: number;
}

/** Clients that stream chats through a router, each its next one as soon as one has ended, and remember how every one of them ended. */
export class StreamLoad {
  readonly completed: StreamEnd[] = [];
  readonly failed: StreamEnd[] = [];
  readonly #options: StreamLoadOptions;
  #workers: readonly Promise<void>[] = [];
  #stopping = false;

  constructor(options: StreamLoadOptions) {
    this.#options = options;
  }

  start(): void {
    this.#workers = Array.from({ length: this.#options.workers }, (_, worker) => this.#work(worker));
  }

  /** Lets the chats under way end. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#workers);
  }

  /** A long stream from one replica of which a part has come; it is none of the load's. */
  async streamFrom(address: string): Promise<{ readonly ended: Promise<StreamEnd> }> {
    for (let i = 0; i < 200; i++) {
      const begun = await this.#begin(`a long story, version ${i}`, 20_000);
      if (!("response" in begun)) continue;
      const { response, abort } = begun;
      const reader = response.body?.getReader();
      if (reader !== undefined && response.headers.get("x-kvatlas-endpoint") === address) {
        await reader.read();
        return { ended: read(response, reader) };
      }
      abort();
      await reader?.closed.catch(() => {});
    }
    throw new Error(`no chat was routed to ${address}`);
  }

  async #work(worker: number): Promise<void> {
    const subject = `Worker ${worker} asks about ${"prefixes, blocks and caches, ".repeat(10)}`;
    for (let turn = 0; !this.#stopping; turn++) {
      const begun = await this.#begin(`${subject} question ${turn % 5}`, this.#options.maxTokens);
      const end = "response" in begun ? await read(begun.response, begun.response.body?.getReader()) : begun;
      (end.outcome === "completed" ? this.completed : this.failed).push(end);
    }
  }

  async #begin(content: string, maxTokens: number): Promise<{ readonly response: Response; readonly abort: () => void } | StreamEnd> {
    const { url, model } = this.#options;
    const controller = new AbortController();
    try {
      const response = await fetch(`${url}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model, stream: true, max_tokens: maxTokens, messages: [{ role: "user", content }] }),
        signal: controller.signal,
      });
      if (response.status === 200) return { response, abort: () => controller.abort() };
      return { outcome: "refused", endpoint: null, mode: null, detail: `${response.status} ${await response.text()}` };
    } catch (error) {
      return { outcome: "refused", endpoint: null, mode: null, detail: String(error) };
    }
  }
}

async function read(response: Response, reader: ReadableStreamDefaultReader<Uint8Array> | undefined): Promise<StreamEnd> {
  const from = { endpoint: response.headers.get("x-kvatlas-endpoint"), mode: response.headers.get("x-kvatlas-mode") };
  let tail = "";
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const piece = await reader?.read();
      if (piece === undefined || piece.done) break;
      tail = (tail + decoder.decode(piece.value, { stream: true })).slice(-64);
    }
  } catch (error) {
    return { outcome: "cut", ...from, detail: String(error) };
  }
  return tail.endsWith("data: [DONE]\n\n") ? { outcome: "completed", ...from, detail: "" } : { outcome: "cut", ...from, detail: tail };
}
