import type { UpstreamPools } from "./upstream-pools.ts";

const timeoutMs = 1_000;
const maxBytes = 1_048_576;

/** A page of a replica; null unless it answers 200, soon, and with no more than a page. */
export async function askReplica(pools: UpstreamPools, address: string, path: string, apiKey: string | null): Promise<string | null> {
  try {
    const { statusCode, body } = await pools.get(address).request({
      path,
      method: "GET",
      headers: apiKey === null ? {} : { authorization: `Bearer ${apiKey}` },
      signal: AbortSignal.timeout(timeoutMs),
    });
    const parts: Buffer[] = [];
    let bytes = 0;
    for await (const part of body as AsyncIterable<Buffer>) {
      bytes += part.length;
      if (bytes > maxBytes) return null;
      parts.push(part);
    }
    return statusCode === 200 ? Buffer.concat(parts).toString("utf8") : null;
  } catch {
    return null;
  }
}
