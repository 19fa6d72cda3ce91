import type { ScopeId } from "../types.ts";
import { scopeTag } from "./redis-keys.ts";

/*
 * Where a scope's keys are in Redis, as `kva:scopes` says. A layout never changes: another number of shards, or another schema, is another layout
 * under another tag, with keys of its own, so that processes that know only the former one cannot spoil it.
 */

/** Of the layout of keys and values; raised when an older reader would misread a newer one. */
export const SCHEMA_VERSION = 1;

export interface ScopeLayout {
  /** Names the scope in the names of keys. */
  readonly tag: string;
  readonly shards: number;
}

/** What is known of a scope's keys. */
export interface RegisteredLayouts {
  readonly current: ScopeLayout;
  /** Those it had before; listed until nobody uses them and their blocks are reclaimed. */
  readonly former: readonly ScopeLayout[];
  /** ms since the epoch; NaN when it is not said. */
  readonly createdAt: number;
}

/** A field of `kva:scopes`. Every schema version has one of its own for a scope: version 1 the scope's id, later ones the id with `@<version>`. */
export interface ScopeField {
  readonly scope: ScopeId;
  readonly version: number;
}

export function scopeField(scope: ScopeId): string {
  return formatScopeField({ scope, version: SCHEMA_VERSION });
}

function formatScopeField({ scope, version }: ScopeField): string {
  return version === 1 ? scope : `${scope}@${version}`;
}

export function parseScopeField(field: string): ScopeField {
  const match = /^(.+)@(\d+)$/.exec(field);
  return match === null ? { scope: field as ScopeId, version: 1 } : { scope: match[1] as ScopeId, version: Number(match[2]) };
}

/**
 * The layouts in a scope's JSON; null when there are none. `tag`, `shards` and `former` mean the same in every schema version, and so does the `seq` of
 * a shard: this is how one version makes another one forget an endpoint, and reclaims what it has left.
 */
export function layoutsOf(text: string | null | undefined): RegisteredLayouts | null {
  const value = parsed(text);
  const current = layoutIn(value);
  if (value === null || current === null) return null;
  const former = Array.isArray(value.former) ? value.former.map(layoutIn).filter((layout) => layout !== null) : [];
  return { current, former, createdAt: typeof value.createdAt === "string" ? Date.parse(value.createdAt) : Number.NaN };
}

/** The JSON with other former layouts. */
export function withFormer(text: string, former: readonly ScopeLayout[]): string {
  const { former: _, ...rest } = parsed(text) ?? {};
  return JSON.stringify(former.length === 0 ? rest : { ...rest, former });
}

/** A layout for a scope, under a tag that is nobody's. */
export function newLayout(scope: ScopeId, shards: number, taken: ReadonlySet<string>): ScopeLayout {
  for (let generation = 0; ; generation += 1) {
    const tag = scopeTag(scope, generation);
    if (!taken.has(tag)) return { tag, shards };
  }
}

/** Every tag that some scope names, in any version. */
export function tagsIn(texts: Iterable<string>): Set<string> {
  const tags = new Set<string>();
  for (const text of texts) {
    const layouts = layoutsOf(text);
    if (layouts !== null) for (const { tag } of [layouts.current, ...layouts.former]) tags.add(tag);
  }
  return tags;
}

export function sameLayout(a: ScopeLayout, b: ScopeLayout): boolean {
  return a.tag === b.tag && a.shards === b.shards;
}

/**
 * Whether a number of shards that was right once still is. One and several are different things: a script call for one shard carries everything, and one
 * shard cannot be spread over primaries. Among several it does not matter much: a cluster that grows keeps them until it has become more than
 * twice as large, because another number costs the whole index.
 */
export function isSuitable(shards: number, wanted: number): boolean {
  return shards === wanted || (shards > 1 && wanted > 1 && shards * 2 >= wanted);
}

function layoutIn(value: unknown): ScopeLayout | null {
  if (typeof value !== "object" || value === null) return null;
  const { tag, shards } = value as { readonly tag?: unknown; readonly shards?: unknown };
  if (typeof tag !== "string" || !/^[0-9A-Za-z]{1,16}$/.test(tag)) return null;
  return typeof shards === "number" && Number.isInteger(shards) && shards >= 1 && shards <= MAX_SHARDS ? { tag, shards } : null;
}

/** What the leading 16 bits of a block key can tell apart, and far more than anybody has primaries. */
const MAX_SHARDS = 65_536;

function parsed(text: string | null | undefined): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(text ?? "");
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
