import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { systemClock } from "@kvatlas/shared/clock";
import { isKvatlasError, KvatlasError } from "@kvatlas/shared/errors";
import { usageError } from "../args.ts";
import type { Command, CommandContext } from "../command.ts";
import { describeEngine } from "../recording/describe-engine.ts";
import { EngineHttp } from "../recording/engine-http.ts";
import { captureReplay, FrameCapture } from "../recording/frame-capture.ts";
import { defaultEngine } from "../recording/recording-line.ts";
import { RecordingWriter } from "../recording/recording-writer.ts";
import { parseSendLine, type SendLine } from "../recording/send-lines.ts";

/** A publisher that does not answer within this time is noted; its socket keeps dialling. */
const connectTimeoutMs = 5_000;
/** A subscription reaches the publisher a moment after the connection is there, and nothing tells when. */
const subscriptionMs = 300;
/** A replay that says nothing for this long is taken for ended; vLLM serves one request per 100 ms when idle. */
const replaySilenceMs = 2_000;
/** Frames of a request come at most this long after its response. */
const maxQuietWaitMs = 10_000;
const quietPollMs = 20;

export const recordCommand: Command = {
  name: "record",
  summary: "records events and requests of a running engine",
  usage: "record --url http://host:8000 --events tcp://host:5557 [--replay tcp://host:5657] [--send bodies.jsonl] > recording.jsonl",
  description: [
    "Writes every event message as it comes, what the engine says about itself, and, with --send, requests with their answers, one JSON object a line.",
    'Requests are sent one after the other, the next one when the events of the one before have come. Put "return_token_ids": true into their bodies',
    "(and, for streams, stream_options.include_usage), so that kvatlas verify can check more than keys.",
    "Without --send it records until Ctrl-C.",
  ].join("\n"),
  examples: [
    "kvatlas record --url http://127.0.0.1:8000 --events tcp://127.0.0.1:5557 --replay tcp://127.0.0.1:5657 --send bodies.jsonl > engine.jsonl",
    "kvatlas record --url http://127.0.0.1:8000 --events 'tcp://*:5557' --topic 'kv@' > engine.jsonl",
  ],
  options: {
    url: { type: "string", value: "URL", description: "Base URL of the engine's HTTP server." },
    events: {
      type: "string",
      value: "ADDRESS",
      multiple: true,
      description: "Address of the event publisher, one per data-parallel rank; with * for the host, publishers dial in there.",
    },
    replay: {
      type: "string",
      value: "ADDRESS",
      multiple: true,
      description: "Address of the replay socket, one per --events; default none.",
    },
    topic: { type: "string", value: "PREFIX", description: "Prefix of the topics to record; default all." },
    send: { type: "string", value: "FILE", description: 'Requests to send, one a line: an OpenAI body, or {"path", "headers", "body"}.' },
    seed: {
      type: "string",
      value: "SEED",
      description: "PYTHONHASHSEED of the engine, which cannot be asked for; default: not set or not known.",
    },
    "quiet-ms": { type: "string", value: "MS", description: "Time without events after which the next request is sent; default 200." },
    "metrics-interval-s": { type: "string", value: "S", description: "Time between recorded /metrics pages in seconds; default 10." },
    "request-timeout-s": { type: "string", value: "S", description: "Longest time for one answer in seconds; default 600." },
  },
  run: record,
};

async function record(context: CommandContext): Promise<number> {
  const { args, stdout, stderr, signal } = context;
  const url = urlOf(args.required("url"));
  const events = args.strings("events");
  const replay = args.strings("replay");
  if (events.length === 0) throw usageError("option --events is required.");
  if (replay.length > 0 && replay.length !== events.length) {
    throw usageError(`got ${replay.length} --replay for ${events.length} --events: name one for each, in the same order, or none.`);
  }
  const quietMs = args.integer("quiet-ms", { min: 1, max: 60_000 }) ?? 200;
  const metricsIntervalMs = 1_000 * (args.number("metrics-interval-s", { min: 0.1, max: 86_400 }) ?? 10);
  const timeoutMs = 1_000 * (args.number("request-timeout-s", { min: 1, max: 86_400 }) ?? 600);
  const sendFile = args.string("send");
  const requests = sendFile === undefined ? null : await readRequests(sendFile);

  const writer = new RecordingWriter(stdout, systemClock);
  // The last questions are asked after Ctrl-C, so they do not hang on its signal.
  const http = new EngineHttp(writer, { url, timeoutMs: Math.min(timeoutMs, 10_000), signal: new AbortController().signal });
  const sender = new EngineHttp(writer, { url, timeoutMs, signal });
  const topic = args.string("topic") ?? "";
  const publisher = defaultEngine;
  const { meta, answers } = await describeEngine(http, { engine: publisher, seed: args.string("seed") ?? null, topic });
  await writer.write("meta", meta);
  for (const answer of answers) await http.writeAnswer(answer);

  const captures = events.map((address) => new FrameCapture(writer, { publisher, address, topic }));
  const ends = new AbortController();
  const sampling = sampleMetrics(http, metricsIntervalMs, ends.signal);
  try {
    for (const [rank, capture] of captures.entries()) {
      const isUp = await capture.start(connectTimeoutMs);
      if (!isUp) stderr.write(`kvatlas: ${events[rank]} does not answer; it is dialled again until the end.\n`);
    }
    await sleep(subscriptionMs, undefined, { signal }).catch(() => undefined);
    for (const [rank, address] of replay.entries()) {
      const next = await captureReplay(writer, publisher, address, 0, replaySilenceMs);
      if (next !== null) captures[rank]?.replayedUntil(next);
    }
    if (requests === null) {
      stderr.write("kvatlas: recording; Ctrl-C ends it.\n");
      await aborted(signal);
    } else await sendAll(context, { writer, sender, quietMs }, requests);
    // What the live socket may have missed at the end.
    for (const [rank, address] of replay.entries()) {
      await captureReplay(writer, publisher, address, captures[rank]?.replayFrom ?? 0, replaySilenceMs);
    }
    await recordMetrics(http);
  } finally {
    ends.abort();
    await sampling;
    for (const capture of captures) await capture.close();
    await writer.note(signal.aborted ? "recording ended by signal" : "recording ended");
  }
  return 0;
}

interface Sending {
  readonly writer: RecordingWriter;
  readonly sender: EngineHttp;
  readonly quietMs: number;
}

async function sendAll(context: CommandContext, { writer, sender, quietMs }: Sending, requests: readonly SendLine[]): Promise<void> {
  const { signal, stderr } = context;
  for (const [index, request] of requests.entries()) {
    if (signal.aborted) return;
    const id = `r${index + 1}`;
    try {
      await sender.send(id, request);
    } catch (error) {
      if (signal.aborted) return;
      if (!isKvatlasError(error, "KVATLAS_ENDPOINT_UNAVAILABLE")) throw error;
      stderr.write(`kvatlas: ${id}: ${error.message}\n`);
      await writer.note(`request failed: ${error.message}`, { id });
    }
    const answeredAt = systemClock.monotonic();
    const sinceAnswer = (): number => systemClock.monotonic() - answeredAt;
    while (!signal.aborted && Math.min(writer.quietMs, sinceAnswer()) < quietMs && sinceAnswer() < maxQuietWaitMs) await sleep(quietPollMs);
  }
}

async function sampleMetrics(http: EngineHttp, intervalMs: number, signal: AbortSignal): Promise<void> {
  for (;;) {
    try {
      await sleep(intervalMs, undefined, { signal });
    } catch {
      return;
    }
    await recordMetrics(http);
  }
}

/** An engine that is busy or gone shows in the frames; a page less does not end the recording. */
async function recordMetrics(http: EngineHttp): Promise<void> {
  try {
    await http.writeAnswer(await http.ask("/metrics"));
  } catch (error) {
    if (!isKvatlasError(error, "KVATLAS_ENDPOINT_UNAVAILABLE")) throw error;
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

function urlOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw usageError(`option --url: got "${text}", expected something like http://127.0.0.1:8000.`);
  }
  return url.href;
}

async function readRequests(path: string): Promise<readonly SendLine[]> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw new KvatlasError("KVATLAS_CLI_USAGE", `cannot read --send ${path}: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
  const requests: SendLine[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue;
    const request = parseSendLine(line.trim());
    if (typeof request === "string") throw usageError(`${path}, line ${index + 1}: ${request}.`);
    requests.push(request);
  }
  if (requests.length === 0) throw usageError(`${path} has no requests.`);
  return requests;
}
