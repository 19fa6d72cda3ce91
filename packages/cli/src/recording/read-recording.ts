import { readFile } from "node:fs/promises";
import { parseRecordingLine, type RecordingLine } from "./recording-line.ts";

export interface Recording {
  readonly lines: readonly RecordingLine[];
  /** Lines that are none, with the reason. */
  readonly malformed: readonly { readonly line: number; readonly reason: string }[];
}

/** Reads a recording whole. Lines end with LF alone: U+2028 and the like may stand inside strings. Rejects when the file cannot be read. */
export async function readRecording(path: string): Promise<Recording> {
  return parseRecording(await readFile(path));
}

/** The same from bytes. */
export function parseRecording(bytes: Buffer): Recording {
  const lines: RecordingLine[] = [];
  const malformed: { line: number; reason: string }[] = [];
  let number = 0;
  for (let start = 0; start < bytes.length; ) {
    const lineFeed = bytes.indexOf(0x0a, start);
    const end = lineFeed < 0 ? bytes.length : lineFeed;
    number++;
    const text = bytes.toString("utf8", start, end).trim();
    start = end + 1;
    if (text === "") continue;
    const parsed = parseRecordingLine(text, number);
    if (typeof parsed === "string") malformed.push({ line: number, reason: parsed });
    else lines.push(parsed);
  }
  return { lines, malformed };
}
