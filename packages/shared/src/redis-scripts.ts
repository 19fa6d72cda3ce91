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

/**
 * The command that runs a script.
 *
 * @param withSource sends the script along, which also makes Redis know it from then on; without it, a Redis that does not know the script (it has
 * been restarted, flushed or replaced) answers with an error that `isUnknownScript` recognises
 */
export function scriptCommand(
  script: RedisScript,
  keys: readonly string[],
  args: readonly (string | number)[],
  withSource = false,
): RedisCommand {
  return withSource
    ? ["eval", script.source, script.keyCount, ...keys, ...args]
    : ["evalsha", script.sha1, script.keyCount, ...keys, ...args];
}

/**
 * Runs one script with several sets of keys and arguments, in one go. Those that found the script unknown are run again, so the calls must not
 * depend on each other's order.
 *
 * @throws KvatlasError for the first call that failed.
 */
export async function runScript(
  connection: RedisConnection,
  script: RedisScript,
  calls: readonly { readonly keys: readonly string[]; readonly args: readonly (string | number)[] }[],
  signal?: AbortSignal,
): Promise<readonly RedisReply[]> {
  const commands = calls.map(({ keys, args }) => scriptCommand(script, keys, args));
  const replies = [...(await connection.send(commands, signal))];
  const missed = calls.flatMap((call, i) => (isUnknownScript(replies[i]) ? [{ call, i }] : []));
  if (missed.length > 0) {
    const withSource = missed.map(({ call: { keys, args } }) => scriptCommand(script, keys, args, true));
    const again = await connection.send(withSource, signal);
    for (const [n, { i }] of missed.entries()) replies[i] = again[n];
  }
  for (const reply of replies) if (reply instanceof Error) throw redisError(reply);
  return replies;
}
