import type { RedisConfig } from "@kvatlas/shared/config/schema";

/** A redis-cli command line that can be pasted into a shell. The password of the URL is left out: redis-cli takes it from REDISCLI_AUTH. */
export function redisCliLine(redis: Pick<RedisConfig, "url">, ...args: readonly string[]): string {
  return ["redis-cli", ...connectionArgs(redis.url), ...args.map(quote)].join(" ");
}

function connectionArgs(url: string | null): readonly string[] {
  if (url === null) return [];
  try {
    const parsed = new URL(url);
    parsed.password = "";
    // redis-cli reads "user@" as a password; without one the user goes as well.
    const user = parsed.username;
    parsed.username = "";
    return [...(user === "" ? [] : ["--user", quote(decodeURIComponent(user))]), "-u", quote(parsed.href.replace(/\/$/, ""))];
  } catch {
    return [];
  }
}

function quote(text: string): string {
  return /^[A-Za-z0-9_./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
