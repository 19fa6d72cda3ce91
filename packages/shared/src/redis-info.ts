/** Fields of Redis' INFO by name. */
export type RedisInfo = ReadonlyMap<string, string>;

/** `name:value` lines of INFO; comments and anything else are ignored. */
export function parseRedisInfo(text: string): RedisInfo {
  const fields = new Map<string, string>();
  for (const line of text.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    if (colon > 0 && !line.startsWith("#")) fields.set(line.slice(0, colon), line.slice(colon + 1));
  }
  return fields;
}
