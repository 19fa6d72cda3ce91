import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import type { RedisCommand, RedisConnection, RedisReply } from "./redis.ts";
import { isUnknownScript, redisError } from "./redis-error.ts";

/** A Lua script of `packages/shared/lua`; the number at the end of its name is its number of keys. */
export interface RedisScript {
  readonly source: string;
  readonly sha1: string;
  readonly keyCount: number;
}

/** Reads a script. Its head says what its keys, arguments and answers are. */
export function readScript(name: `${string}-${1 | 2}`): RedisScript {
  const source = readFileSync(new URL(`../lua/${name}.lua`, import.meta.url), "utf8");
  return { source, sha1: createHash("sha1").update(source).digest("hex"), keyCount: Number(name.slice(-1)) };
}

export function scriptCommand(script: RedisScript, keys: readonly string[], args: readonly (string | number)[]): RedisCommand {
  return ["evalsha", script.sha1, script.keyCount, ...keys, ...args];
}

/** Makes a Redis that has been restarted, flushed or replaced know these scripts. */
export async function loadScripts(connection: RedisConnection, scripts: readonly RedisScript[]): Promise<void> {
  const replies = await connection.send(scripts.map((script) => ["script", "LOAD", script.source]));
  const failure = replies.find((reply) => reply instanceof Error);
  if (failure !== undefined) throw redisError(failure);
}

/**
 * Runs one script with several sets of keys and arguments, in one go. Those it could not run because it was not known are run again after loading
 * it, so the calls must not depend on each other's order.
 *
 * @throws KvatlasError for the first call that failed.
 */
export async function runScript(
  connection: RedisConnection,
  script: RedisScript,
  calls: readonly { readonly keys: readonly string[]; readonly args: readonly (string | number)[] }[],
): Promise<readonly RedisReply[]> {
  const commands = calls.map(({ keys, args }) => scriptCommand(script, keys, args));
  const replies = [...(await connection.send(commands))];
  const missed = replies.flatMap((reply, i) => (isUnknownScript(reply) ? [i] : []));
  if (missed.length > 0) {
    await loadScripts(connection, [script]);
    const again = await connection.send(pick(commands, missed));
    for (const [n, i] of missed.entries()) replies[i] = again[n];
  }
  for (const reply of replies) if (reply instanceof Error) throw redisError(reply);
  return replies;
}

function pick<T>(list: readonly T[], positions: readonly number[]): T[] {
  return positions.flatMap((position) => {
    const item = list[position];
    return item === undefined ? [] : [item];
  });
}
