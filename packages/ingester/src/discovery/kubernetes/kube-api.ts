import { type IncomingMessage, request as requestHttp } from "node:http";
import { request as requestHttps } from "node:https";
import { StringDecoder } from "node:string_decoder";
import { KvatlasError } from "@kvatlas/shared/errors";
import { integerAt, textAt } from "./json-path.ts";
import { type KubeAccess, reasonOf } from "./kube-access.ts";

/** The API server said no, or nothing. */
export class KubeApiError extends KvatlasError {
  /** HTTP status, or that of an ERROR event; null when there was no answer. */
  readonly status: number | null;
  /** How long the server asks to be left alone; null when it does not say. */
  readonly retryAfterMs: number | null;

  constructor(message: string, status: number | null, more: { readonly retryAfterMs?: number | null; readonly cause?: unknown } = {}) {
    super("KVATLAS_KUBERNETES_UNAVAILABLE", message, { cause: more.cause });
    this.status = status;
    this.retryAfterMs = more.retryAfterMs ?? null;
  }
}

export interface KubeApiOptions {
  /** Until an answer begins, and between two pieces of a list. @defaultValue 15000 */
  readonly answerTimeoutMs?: number;
  /** A watch that has been silent for so long is taken for dead: servers send bookmarks about once a minute. @defaultValue 150000 */
  readonly silenceMs?: number;
}

export interface KubeApi {
  /** Of the pod or the context. */
  namespace(): Promise<string>;
  /** The answer's JSON. @throws KubeApiError, KVATLAS_KUBERNETES_UNAVAILABLE */
  get(path: string, query: Readonly<Record<string, string>>, signal: AbortSignal): Promise<unknown>;
  /** One call per line of the answer; resolves when the server ends it in good order. @throws like `get`, and what `onObject` throws */
  stream(path: string, query: Readonly<Record<string, string>>, onObject: (object: unknown) => void, signal: AbortSignal): Promise<void>;
  /** The server did not take our credentials: the next request reads them anew. */
  renewCredentials(): void;
}

const defaults = { answerTimeoutMs: 15_000, silenceMs: 150_000 };
/** A page of 500 objects comes to a few megabytes. */
const maxAnswerChars = 128 * 1024 * 1024;
/** etcd keeps no object of more than 1.5 MB. */
const maxLineChars = 8 * 1024 * 1024;
const maxErrorChars = 64 * 1024;

/** GET requests to the API server. Whoever aborts gets a rejection. */
export function createKubeApi(open: () => Promise<KubeAccess>, options: KubeApiOptions = {}): KubeApi {
  const { answerTimeoutMs, silenceMs } = { ...defaults, ...options };
  let access: Promise<KubeAccess> | null = null;

  function opened(): Promise<KubeAccess> {
    if (access !== null) return access;
    const opening = open();
    access = opening;
    opening.catch(() => {
      if (access === opening) access = null;
    });
    return opening;
  }

  async function send(path: string, query: Readonly<Record<string, string>>, signal: AbortSignal, idleMs: number): Promise<Answer> {
    const { server, requestOptions } = await opened();
    const url = new URL(`${server.pathname.replace(/\/$/, "")}${path}?${new URLSearchParams(query)}`, server);
    const options = await requestOptions();
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const request = (url.protocol === "http:" ? requestHttp : requestHttps)(url, {
        ...options,
        headers: { ...options.headers, accept: "application/json" },
        signal,
      });
      const fail = (error: Error): void => reject(unreachable(server, error));
      const timer = setTimeout(() => request.destroy(new Error(`no answer within ${answerTimeoutMs / 1_000} s`)), answerTimeoutMs);
      request.on("error", fail);
      request.on("response", (response) => {
        clearTimeout(timer);
        response.setTimeout(idleMs, () => response.destroy(new Error(`silent for ${idleMs / 1_000} s`)));
        resolve({ response, server });
      });
      request.on("close", () => clearTimeout(timer));
      request.end();
    });
  }

  return {
    namespace: async () => (await opened()).namespace,
    get: async (path, query, signal) => {
      const { response, server } = await send(path, query, signal, answerTimeoutMs);
      const text = await read(response, server, response.statusCode === 200 ? maxAnswerChars : maxErrorChars);
      if (response.statusCode !== 200) throw refusal(response, text);
      try {
        return JSON.parse(text);
      } catch (error) {
        throw new KubeApiError(`${server.origin} answers ${path} with what is no JSON`, null, { cause: error });
      }
    },
    stream: async (path, query, onObject, signal) => {
      const { response, server } = await send(path, query, signal, silenceMs);
      if (response.statusCode !== 200) throw refusal(response, await read(response, server, maxErrorChars));
      const decoder = new StringDecoder("utf8");
      let rest = "";
      try {
        for await (const piece of response as AsyncIterable<Buffer>) {
          const lines = (rest + decoder.write(piece)).split("\n");
          rest = lines.pop() ?? "";
          if (rest.length > maxLineChars) throw new KubeApiError("a watch sends an object without an end", null);
          for (const line of lines) if (line.trim() !== "") onObject(parseLine(line));
        }
      } catch (error) {
        throw error instanceof KvatlasError ? error : unreachable(server, error);
      } finally {
        response.destroy();
      }
      // Half an object at an end that looks orderly: it comes again after the last one that was whole.
    },
    renewCredentials: () => {
      access = null;
    },
  };
}

interface Answer {
  readonly response: IncomingMessage;
  readonly server: URL;
}

async function read(response: IncomingMessage, server: URL, maxChars: number): Promise<string> {
  const decoder = new StringDecoder("utf8");
  const pieces: string[] = [];
  let length = 0;
  try {
    for await (const piece of response as AsyncIterable<Buffer>) {
      const text = decoder.write(piece);
      length += text.length;
      if (length > maxChars) throw new KubeApiError(`an answer is longer than ${maxChars} characters`, response.statusCode ?? null);
      pieces.push(text);
    }
  } catch (error) {
    throw error instanceof KvatlasError ? error : unreachable(server, error);
  } finally {
    response.destroy();
  }
  return pieces.join("");
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (error) {
    throw new KubeApiError("a watch sends what is no JSON", null, { cause: error });
  }
}

function refusal(response: IncomingMessage, text: string): KubeApiError {
  const status = response.statusCode ?? 0;
  const seconds = Number(response.headers["retry-after"]);
  const retryAfterMs = Number.isFinite(seconds) && seconds > 0 ? seconds * 1_000 : null;
  return new KubeApiError(messageOf(text) ?? `the API server answers ${status}`, status, { retryAfterMs });
}

/** Of a `Status` object. */
function messageOf(text: string): string | null {
  try {
    return textAt(JSON.parse(text), "message");
  } catch {
    return null;
  }
}

/** An ERROR event's object, which is a `Status`. */
export function errorOfStatus(status: unknown): KubeApiError {
  return new KubeApiError(textAt(status, "message") ?? "the watch was ended with an error", integerAt(status, "code"));
}

function unreachable(server: URL, error: unknown): KubeApiError {
  return new KubeApiError(`the API server at ${server.origin} cannot be reached: ${reasonOf(error)}`, null, { cause: error });
}
