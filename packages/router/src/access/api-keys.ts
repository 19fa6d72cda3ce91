import { hash, timingSafeEqual } from "node:crypto";

/** An API key as far as it is kept: whose it is, and its sha256. */
export interface ApiKey {
  readonly tenant: string;
  readonly digest: Buffer;
}

const line = /^(?:(\S{1,64})\s+)?([0-9a-fA-F]{64})$/;
/** Keys beyond these are a mistake: each request is compared with every one. */
const maxKeys = 10_000;

/**
 * Reads lines of `<tenant> <sha256 in hex>`; a line without a tenant belongs to the tenant `default`. Empty lines and lines that begin with `#` are
 * skipped.
 *
 * @returns `problems`: one sentence for each line that is neither; its text is not repeated, as it may be a key.
 */
export function parseApiKeys(lines: readonly string[]): { readonly keys: readonly ApiKey[]; readonly problems: readonly string[] } {
  const keys: ApiKey[] = [];
  const problems: string[] = [];
  for (const [i, raw] of lines.entries()) {
    const text = raw.trim();
    if (text === "" || text.startsWith("#")) continue;
    const found = line.exec(text);
    if (found === null) problems.push(`line ${i + 1}: expected "<tenant> <sha256 of the key in 64 hex digits>".`);
    else keys.push({ tenant: found[1] ?? "default", digest: Buffer.from(found[2] ?? "", "hex") });
  }
  if (keys.length > maxKeys) problems.push(`${keys.length} keys; at most ${maxKeys} are allowed.`);
  return { keys, problems };
}

/** Tenant of a key; null when nobody has it. Takes as long for a wrong key as for a right one, wherever in the list that is. */
export function tenantOfKey(keys: readonly ApiKey[], presented: string): string | null {
  const digest = hash("sha256", presented, "buffer");
  let tenant: string | null = null;
  for (const key of keys) {
    if (timingSafeEqual(key.digest, digest)) tenant ??= key.tenant;
  }
  return tenant;
}
