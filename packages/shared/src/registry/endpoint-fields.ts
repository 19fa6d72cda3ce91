import { type ExtrasForm, hashAlgorithms, type ScopeSpec } from "../hashing/key-scheme.ts";
import { layoutsOf, SCHEMA_VERSION, type ScopeLayout } from "../index/scope-layout.ts";
import type { CacheGroup, EndpointId, ScopeId } from "../types.ts";
import { emptyMeta } from "./endpoint-defaults.ts";
import type { EndpointLoad, EndpointMeta, EndpointState, Inflight } from "./endpoint-registry.ts";

/*
 * Registry values as text in Redis. Written for people first: numbers and names stand as they are, lists and maps as JSON, nothing is an empty
 * string. What cannot be read (another release, a hand that slipped) counts as absent: one bad field never hides an endpoint.
 */

/** HASH fields of the given part of an endpoint's meta, as field, value, field, value. */
export function metaToFields(meta: Partial<EndpointMeta>): string[] {
  const fields: string[] = [];
  for (const [name, value] of Object.entries(meta)) {
    if (value === undefined) continue;
    fields.push(name, value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  return fields;
}

export function metaFromFields(fields: Readonly<Record<string, string>>): EndpointMeta {
  return {
    address: fields.address ?? emptyMeta.address,
    pool: fields.pool ?? emptyMeta.pool,
    model: fields.model ?? emptyMeta.model,
    rank: numberOr(fields.rank, 0),
    scope: (fields.scope || null) as ScopeId | null,
    extrasForm: (fields.extrasForm || null) as ExtrasForm | null,
    lookaheadTokens: numberOr(fields.lookaheadTokens, 0),
    groups: arrayOr<CacheGroup>(fields.groups),
    loras: recordOr(fields.loras),
    ready: fields.ready === "true",
    processStartSeconds: fields.processStartSeconds ? numberOr(fields.processStartSeconds, null) : null,
    lastBatch: lastBatchOr(fields.lastBatch),
    owedFrom: fields.owedFrom ? numberOr(fields.owedFrom, null) : null,
    reportsReuse: fields.reportsReuse === "true",
    mediaByAdapter: fields.mediaByAdapter === "true",
    findings: recordOr(fields.findings),
  };
}

export function stateFromFields(fields: Readonly<Record<string, string>>): EndpointState {
  return {
    incarnation: numberOr(fields.incarnation, 0),
    from: numberOr(fields.from, 0),
    owner: fields.owner || null,
    fence: numberOr(fields.fence, 0),
  };
}

/** Null for a value that is no load. */
export function loadFromText(text: string): EndpointLoad | null {
  const value = parsed(text);
  if (!isRecord(value) || typeof value.at !== "number" || typeof value.waiting !== "number" || typeof value.running !== "number")
    return null;
  return {
    waiting: value.waiting,
    running: value.running,
    kvUsage: typeof value.kvUsage === "number" ? value.kvUsage : 0,
    maxTokens: typeof value.maxTokens === "number" ? value.maxTokens : null,
    runningLoras: strings(value.runningLoras),
    waitingLoras: strings(value.waitingLoras),
    ...(typeof value.maxLoras === "number" ? { maxLoras: value.maxLoras } : {}),
    sleeping: value.sleeping === true,
    at: value.at,
  };
}

/** `requests:prefillTokens:decodeTokens` */
export function inflightToText({ requests, prefillTokens, decodeTokens }: Inflight): string {
  return `${requests}:${prefillTokens}:${decodeTokens}`;
}

export function inflightFromFields(fields: Readonly<Record<string, string>>): ReadonlyMap<EndpointId, Inflight> {
  const inflight = new Map<EndpointId, Inflight>();
  for (const [endpoint, text] of Object.entries(fields)) {
    const [requests = Number.NaN, prefillTokens = Number.NaN, decodeTokens = Number.NaN] = text.split(":").map(Number);
    if (Number.isFinite(requests + prefillTokens + decodeTokens))
      inflight.set(endpoint as EndpointId, { requests, prefillTokens, decodeTokens });
  }
  return inflight;
}

/** What `kva:scopes` holds of a scope. */
export interface ScopeRecord extends ScopeSpec {
  readonly shards: number;
  /** Names the scope in the names of keys. */
  readonly tag: string;
}

export function scopeToText(spec: ScopeSpec, { tag, shards }: ScopeLayout, createdAt: string): string {
  return JSON.stringify({
    tag,
    model: spec.model,
    blockSize: spec.blockSizeTokens,
    scheme: spec.scheme.kind === "native" ? spec.scheme.algorithm : "content",
    seed: spec.scheme.seed,
    shards,
    schemaVersion: SCHEMA_VERSION,
    createdAt,
  });
}

/** Null for a value that is no scope of this schema version. */
export function scopeFromText(text: string): ScopeRecord | null {
  const value = parsed(text);
  if (!isRecord(value) || value.schemaVersion !== SCHEMA_VERSION) return null;
  const { model, blockSize, scheme, seed } = value;
  if (typeof model !== "string" || typeof blockSize !== "number" || typeof scheme !== "string" || typeof seed !== "string") return null;
  const layouts = layoutsOf(text);
  if (layouts === null) return null;
  const algorithm = hashAlgorithms.find((known) => known === scheme);
  if (algorithm === undefined && scheme !== "content") return null;
  return {
    model,
    blockSizeTokens: blockSize,
    scheme: algorithm === undefined ? { kind: "content", seed } : { kind: "native", algorithm, seed },
    ...layouts.current,
  };
}

function parsed(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? "");
  } catch {
    return null;
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function strings(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
}

function numberOr<T>(text: string | undefined, fallback: T): number | T {
  const value = text === undefined || text === "" ? Number.NaN : Number(text);
  return Number.isFinite(value) ? value : fallback;
}

function arrayOr<T>(text: string | undefined): readonly T[] {
  const value = parsed(text);
  return Array.isArray(value) ? (value as T[]) : [];
}

function recordOr(text: string | undefined): Readonly<Record<string, string>> {
  const value = parsed(text);
  return isRecord(value) ? (value as Record<string, string>) : {};
}

function lastBatchOr(text: string | undefined): { readonly seq: number; readonly timestampSeconds: number } | null {
  const value = parsed(text);
  if (!isRecord(value) || typeof value.seq !== "number" || typeof value.timestampSeconds !== "number") return null;
  return { seq: value.seq, timestampSeconds: value.timestampSeconds };
}
