import { parseLiveMessage, parseReplayMessage } from "@kvatlas/ingester/subscriber/frame";
import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import { EngineStream, type StreamRun } from "./engine-stream.ts";
import type { Recording } from "./read-recording.ts";
import {
  defaultEngine,
  type FrameLine,
  type HttpLine,
  isJson,
  type MetaLine,
  type RecordingLine,
  type RequestLine,
  type ResponseLine,
} from "./recording-line.ts";
import type { ReportBuilder } from "./report.ts";

/** A request with its answer. */
export interface Exchange {
  readonly request: RequestLine;
  /** Null when the recording has none. */
  readonly response: ResponseLine | null;
}

/** Everything a recording tells of one engine between two starts. */
export interface EngineRun {
  readonly engine: string;
  /** Null when the recording does not describe the engine. */
  readonly meta: MetaLine | null;
  /** By data-parallel rank; a stream has several runs where the sequence numbers tell of a restart that no meta line announces. */
  readonly streams: ReadonlyMap<number, readonly StreamRun[]>;
  readonly exchanges: readonly Exchange[];
  /** The recording was there when the engine started: nobody has used it before. */
  readonly hasStart: boolean;
  /** Control calls and questions to the engine. */
  readonly http: readonly HttpLine[];
  /** Since when the recorder's live socket was there or gone, as notes tell; empty when they do not. */
  readonly subscription: readonly { readonly atMs: number; readonly isUp: boolean }[];
  /** Replays that came to their end: from `start` on, what had been sent until then is complete as far as the engine still had it. */
  readonly replays: readonly FinishedReplay[];
}

export interface FinishedReplay {
  readonly start: number;
  readonly atMs: number;
}

interface OpenRun {
  readonly engine: string;
  meta: MetaLine | null;
  hasStart: boolean;
  readonly streams: Map<number, EngineStream>;
  readonly exchanges: { readonly request: RequestLine; response: ResponseLine | null }[];
  readonly http: HttpLine[];
  readonly subscription: { readonly atMs: number; readonly isUp: boolean }[];
  readonly replays: FinishedReplay[];
}

/** Sorts the lines of a recording by engine and start. What cannot be read is reported and passed over. */
export function collectRuns(recording: Recording, report: ReportBuilder): readonly EngineRun[] {
  const runs: OpenRun[] = [];
  const current = new Map<string, OpenRun>();
  const pending = new Map<string, { readonly request: RequestLine; response: ResponseLine | null }>();
  const engineOf = engineResolver(recording.lines);
  const publishers = livePublishers(recording.lines, engineOf);
  /** Of engines that have not been described yet: one SUB may be there before any of them. */
  const subscriptions = new Map<string, { readonly atMs: number; readonly isUp: boolean }>();

  const open = (engine: string, meta: MetaLine | null): OpenRun => {
    const run: OpenRun = { engine, meta, hasStart: false, streams: new Map(), exchanges: [], http: [], subscription: [], replays: [] };
    for (const [publisher, state] of subscriptions) if (isOf(publishers, publisher, engine)) run.subscription.push(state);
    runs.push(run);
    current.set(engine, run);
    return run;
  };
  const runOf = (engine: string): OpenRun => current.get(engine) ?? open(engine, null);

  for (const line of recording.lines) {
    switch (line.kind) {
      case "meta": {
        // What came before the first description belongs to what it describes.
        const undescribed = current.get(line.engine);
        if (undescribed?.meta === null) undescribed.meta = line;
        else open(line.engine, line);
        break;
      }
      case "frame":
        addFrame(line, runOf(engineOf(line)), report);
        break;
      case "request": {
        const exchange = { request: line, response: null };
        if (!isControl(line)) runOf(line.engine).exchanges.push(exchange);
        pending.set(line.id, exchange);
        break;
      }
      case "response": {
        const exchange = pending.get(line.id);
        if (exchange === undefined || exchange.response !== null)
          report.problem("response", line.line, `response to "${line.id}", which no open request has`);
        else {
          exchange.response = line;
          const { request } = exchange;
          if (isControl(request)) runOf(request.engine).http.push(controlCall(request, line));
        }
        break;
      }
      case "http":
        runOf(line.engine).http.push(line);
        break;
      case "note": {
        if (line.engine !== null && line.text.startsWith("engine ready")) runOf(line.engine).hasStart = true;
        const isUp = /^SUB (connected|bound)/.test(line.text);
        if (line.publisher === null || (!isUp && !line.text.startsWith("SUB closed"))) break;
        const state = { atMs: line.atMs, isUp };
        subscriptions.set(line.publisher, state);
        for (const run of current.values()) if (isOf(publishers, line.publisher, run.engine)) run.subscription.push(state);
        break;
      }
    }
  }
  return runs.map((run) => ({ ...run, streams: new Map([...run.streams].map(([rank, stream]) => [rank, stream.runs])) }));
}

function addFrame(line: FrameLine, run: OpenRun, report: ReportBuilder): void {
  if (line.sent) return;
  const bare = line.socket === "REQ";
  const message =
    line.endpoint === "live" ? parseLiveMessage(line.frames) : parseReplayMessage(bare ? [new Uint8Array(0), ...line.frames] : line.frames);
  if (message === null) {
    report.problem(
      "frame",
      line.line,
      `${line.frames.length} frames of ${line.frames.map((frame) => frame.length).join(", ")} bytes are no ${line.endpoint} message`,
    );
    return;
  }
  if (message === "end") {
    run.replays.push({ start: line.replayStart ?? Number.POSITIVE_INFINITY, atMs: line.atMs });
    return;
  }
  let batch: ReturnType<typeof decodeEventBatch>;
  try {
    batch = decodeEventBatch(message.payload);
  } catch (error) {
    report.problem("batch", line.line, `batch ${message.seq}: ${error instanceof Error ? error.message : String(error)}`);
    return;
  }
  let stream = run.streams.get(batch.rank);
  if (stream === undefined) {
    stream = new EngineStream();
    run.streams.set(batch.rank, stream);
  }
  const entry = { seq: message.seq, line: line.line, payload: message.payload, batch };
  const merged = line.endpoint === "live" ? stream.addLive(entry, line.atMs) : stream.addReplay(entry);
  if (merged === "contradiction") {
    report.problem("batch", line.line, `batch ${message.seq} of ${run.engine} came before with other bytes and the same time stamp`);
  }
  if (merged !== "new") return;
  for (const [reason, count] of batch.skipped) report.skip(`event: ${reason}`, count);
}

/** Calls that change an engine and ask it for nothing. */
const controlPaths = new Set([
  ...["/reset_prefix_cache", "/sleep", "/wake_up", "/pause", "/resume", "/release_kv_cache_memory"],
  ...["/v1/load_lora_adapter", "/v1/unload_lora_adapter"],
]);

/** Path without its query. */
export function bare(path: string): string {
  return path.split("?", 1)[0] ?? "";
}

export function isControl({ path }: { readonly path: string }): boolean {
  return controlPaths.has(bare(path));
}

function controlCall({ engine, path, body, bodyText }: RequestLine, response: ResponseLine): HttpLine {
  const { line, atMs, status, body: answer } = response;
  return { kind: "http", line, atMs, engine, method: "POST", path, status, request: body, requestText: bodyText, body: answer };
}

/** Finds the engine of a frame: by the publisher's name, else by the topic, else the only engine there is. */
function engineResolver(lines: readonly RecordingLine[]): (frame: FrameLine) => string {
  const metas = lines.filter((line) => line.kind === "meta");
  const engines = new Set(metas.map(({ engine }) => engine));
  const byTopic = new Map(metas.map(({ topic, engine }) => [topic ?? "", engine]));
  byTopic.delete("");
  const [only] = engines;
  return ({ publisher, endpoint, frames: [first] }) => {
    if (engines.has(publisher)) return publisher;
    const topic = endpoint === "live" && first !== undefined ? Buffer.from(first).toString("utf8") : "";
    return byTopic.get(topic) ?? (engines.size <= 1 ? (only ?? defaultEngine) : publisher);
  };
}

/** Which publisher names carried live frames of which engine: notes name publishers, requests name engines. */
function livePublishers(lines: readonly RecordingLine[], engineOf: (frame: FrameLine) => string): ReadonlyMap<string, ReadonlySet<string>> {
  const engines = new Map<string, Set<string>>();
  for (const line of lines) {
    if (line.kind !== "frame" || line.endpoint !== "live") continue;
    const seen = engines.get(line.publisher) ?? new Set();
    engines.set(line.publisher, seen.add(engineOf(line)));
  }
  return engines;
}

function isOf(publishers: ReadonlyMap<string, ReadonlySet<string>>, publisher: string, engine: string): boolean {
  return publisher === engine || publishers.get(publisher)?.has(engine) === true;
}

/** Paths of LoRA adapters by name: 0.31+ hashes the path, events name the adapter alone. Arguments, `/v1/models` and load calls tell it. */
export function loraPathsOf({ meta, http }: Pick<EngineRun, "meta" | "http">): ReadonlyMap<string, string> {
  const paths = new Map<string, string>();
  const args = meta?.args ?? [];
  for (const arg of args.slice(args.indexOf("--lora-modules") + 1)) {
    const [name, path] = arg.startsWith("--") || !args.includes("--lora-modules") ? [] : arg.split(/=(.*)/s, 2);
    if (name === undefined || path === undefined) break;
    paths.set(name, path);
  }
  for (const { path, request, status, body } of http) {
    if (status !== 200) continue;
    if (
      path === "/v1/load_lora_adapter" &&
      isJson(request) &&
      typeof request.lora_name === "string" &&
      typeof request.lora_path === "string"
    ) {
      paths.set(request.lora_name, request.lora_path);
    }
    if (path !== "/v1/models" || !isJson(body) || !Array.isArray(body.data)) continue;
    for (const model of body.data) {
      if (!isJson(model) || typeof model.id !== "string" || typeof model.root !== "string" || typeof model.parent !== "string") continue;
      paths.set(model.id, model.root);
    }
  }
  return paths;
}
