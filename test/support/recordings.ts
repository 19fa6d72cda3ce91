import { readdirSync, readFileSync } from "node:fs";

const directory = new URL("../fixtures/engine/", import.meta.url);

/** A KV-event frame of a recording, as the recorder received it; see test/fixtures/engine/README.md. */
export interface RecordedFrame {
  /** Engine start and publisher: sequence numbers count within it. */
  readonly stream: string;
  readonly endpoint: "live" | "replay";
  readonly seq: bigint;
  readonly payload: Uint8Array;
}

export interface Recording {
  readonly file: string;
  /** Every batch received, live and replayed, in arrival order; requests and end marks left out. */
  readonly frames: readonly RecordedFrame[];
  /** Path of each adapter, from /v1/models. */
  readonly loraPaths: ReadonlyMap<string, string>;
}

export function recordingFiles(): readonly string[] {
  return readdirSync(directory)
    .filter((name) => name.endsWith(".jsonl"))
    .sort();
}

export function readRecording(file: string): Recording {
  const frames: RecordedFrame[] = [];
  const loraPaths = new Map<string, string>();
  let engineStarts = 0;
  for (const text of readFileSync(new URL(file, directory), "utf8").split("\n")) {
    if (text === "") continue;
    const line = JSON.parse(text);
    if (line.kind === "meta") engineStarts += 1;
    if (line.kind === "http" && line.path === "/v1/models") for (const model of line.body?.data ?? []) loraPaths.set(model.id, model.root);
    if (line.kind !== "frame" || line.direction === "sent") continue;
    const parts: Buffer[] = line.frames.map((part: string) => Buffer.from(part, "hex"));
    const payload = parts.at(-1);
    const seq = parts.at(-2);
    if (payload === undefined || payload.length === 0 || seq?.length !== 8) continue;
    // Engines that share one bound socket are told apart by topic.
    const publisher = line.publisher === "central" ? `${parts[0]}` : line.publisher;
    frames.push({ stream: `${publisher}/${engineStarts}`, endpoint: line.endpoint, seq: seq.readBigUInt64BE(), payload });
  }
  return { file, frames, loraPaths };
}

/** Frames of each stream by sequence number, live and replayed merged, each once. */
export function mergedStreams(recording: Recording): ReadonlyMap<string, readonly RecordedFrame[]> {
  const streams = new Map<string, Map<bigint, RecordedFrame>>();
  for (const frame of recording.frames) {
    const stream = streams.get(frame.stream) ?? new Map<bigint, RecordedFrame>();
    streams.set(frame.stream, stream.set(frame.seq, stream.get(frame.seq) ?? frame));
  }
  return new Map([...streams].map(([name, frames]) => [name, [...frames.values()].sort((a, b) => (a.seq < b.seq ? -1 : 1))]));
}
