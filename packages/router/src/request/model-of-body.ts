import type { Span } from "../models/model-span.ts";

/** Longest model name taken from a form. */
const maxNameBytes = 512;
const marker = Buffer.from('name="model"');
const headEnd = Buffer.from("\r\n\r\n");
const lineEnd = Buffer.from("\r\n");

/** The `model` field of a multipart form (audio transcriptions and the like); null when there is none. */
export function modelOfForm(body: Buffer): string | null {
  const span = spanOfFormModel(body);
  return span === null ? null : body.toString("utf8", span.from, span.to);
}

/** Where that field's value is. */
export function spanOfFormModel(body: Buffer): Span | null {
  const at = body.indexOf(marker);
  if (at < 0) return null;
  const start = body.indexOf(headEnd, at);
  if (start < 0 || start - at > maxNameBytes) return null;
  const from = start + headEnd.length;
  const end = body.indexOf(lineEnd, from);
  return end <= from || end - from > maxNameBytes ? null : { from, to: end };
}
