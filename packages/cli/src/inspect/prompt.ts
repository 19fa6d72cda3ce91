import type { KvatlasConfig, PoolConfig } from "@kvatlas/shared/config/schema";
import { KvatlasError } from "@kvatlas/shared/errors";
import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import type { ScopeSpec } from "@kvatlas/shared/hashing/key-scheme";
import { shardOf } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import { createLocalPromptEncoder } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import type { PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import type { ScopeId } from "@kvatlas/shared/types";
import { localEncoderOptions } from "../pool-encoder.ts";
import { formatTable } from "../table.ts";
import type { Inspection } from "./inspection.ts";
import type { InspectSource } from "./source.ts";

export interface PromptQuestion {
  readonly pool: PoolConfig;
  readonly request: PromptRequest;
}

/** Where a prompt would find its prefix: tokens, keys, and who holds how much of it, per scope of the pool's model. */
export async function inspectPrompt(source: InspectSource, { pool, request }: PromptQuestion): Promise<Inspection> {
  const tokenIds = await encode(pool, request);
  const [scopes, endpoints] = await Promise.all([source.registry.scopes(), source.registry.endpoints()]);
  const matching = [...scopes].filter(([, spec]) => spec.model === pool.model);
  const found = await Promise.all(matching.map(([scope, spec]) => lookUp(source, scope, spec, tokenIds, endpoints)));
  const rows = found.flatMap(({ scope, blocks, blockSizeTokens, matches }) =>
    matches.map(({ endpoint, blocks: held, byMedium }) => [
      endpoint,
      held,
      `of ${blocks}`,
      held * blockSizeTokens,
      Object.entries(byMedium)
        .map(([medium, count]) => `${medium} ${count}`)
        .join(", "),
      scope,
    ]),
  );
  const head = `${tokenIds.length} tokens; ${found.map(({ blocks, blockSizeTokens, scope }) => `${blocks} blocks of ${blockSizeTokens} can hit in ${scope}`).join("; ")}\n`;
  return {
    json: { pool: pool.name, tokens: tokenIds.length, scopes: found },
    text:
      matching.length === 0
        ? `${tokenIds.length} tokens; no scope of model ${pool.model} is in the index yet\n`
        : `${head}\n${rows.length === 0 ? "nobody holds its first block\n" : formatTable(["endpoint", "blocks", "", "tokens", "media", "scope"], rows)}`,
    redisCli: found.flatMap(({ shards, tag, keys }) => {
      const longest = Math.max(1, ...found.flatMap(({ matches }) => matches.map((match) => match.blocks)));
      const key = keys[longest - 1];
      return key === undefined ? [] : [source.redisCli("HGETALL", source.keys.space(tag).block(shardOf(key, shards), key))];
    }),
  };
}

async function lookUp(
  { index }: InspectSource,
  scope: ScopeId,
  spec: ScopeSpec & { readonly shards: number; readonly tag: string },
  tokenIds: Uint32Array,
  endpoints: readonly EndpointRecord[],
) {
  const members = endpoints.filter(({ meta }) => meta.scope === scope);
  const hasher = createBlockHasher({
    scheme: spec.scheme,
    blockSizeTokens: spec.blockSizeTokens,
    model: spec.model,
    lookaheadTokens: Math.max(0, ...members.map(({ meta }) => meta.lookaheadTokens)),
  });
  const { keys } = hasher.chain(tokenIds);
  // An engine always computes the last token itself: its block cannot hit.
  const usable = keys.slice(0, Math.floor(Math.max(0, tokenIds.length - 1) / spec.blockSizeTokens));
  const groups = new Map(members.flatMap(({ id, meta }) => (meta.groups.length === 0 ? [] : [[id, meta.groups] as const])));
  const [matches] = await index.lookup([{ scope, keys: usable, groups }], { method: "exact" });
  return {
    scope,
    shards: spec.shards,
    tag: spec.tag,
    blockSizeTokens: spec.blockSizeTokens,
    blocks: usable.length,
    keys: usable,
    matches: [...(matches ?? [])].map(([endpoint, match]) => ({ endpoint, ...match })).sort((a, b) => b.blocks - a.blocks),
  };
}

async function encode(pool: PoolConfig, request: PromptRequest): Promise<Uint32Array> {
  const encoder = createLocalPromptEncoder(await localEncoderOptions(pool, silentLogger));
  try {
    const [prompt] = await encoder.encode(request);
    return prompt?.tokenIds ?? new Uint32Array();
  } finally {
    await encoder.close();
  }
}

/** The named pool, or the only one. @throws KVATLAS_CLI_USAGE */
export function choosePool(config: KvatlasConfig, name: string | undefined): PoolConfig {
  const names = config.pools.map((pool) => pool.name).join(", ");
  const pool = name === undefined ? config.pools[0] : config.pools.find((candidate) => candidate.name === name);
  if (name === undefined && config.pools.length > 1)
    throw new KvatlasError("KVATLAS_CLI_USAGE", `there are several pools; name one with --pool: ${names}.`);
  if (pool === undefined) {
    const known = names === "" ? "the configuration has no pools" : `there are ${names}`;
    throw new KvatlasError("KVATLAS_CLI_USAGE", `no pool${name === undefined ? "" : ` "${name}"`}: ${known}.`);
  }
  return pool;
}
