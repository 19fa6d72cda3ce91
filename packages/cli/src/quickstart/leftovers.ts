import type { Backend } from "@kvatlas/shared/backend";
import { poolName } from "./cluster.ts";

/** A replica of an earlier run has a free port of this machine: it answers at once or never. */
const probeTimeoutMs = 500;
/** Blocks looked at per step of the sweep. */
const sweepLimit = 1_000;

/**
 * Removes what earlier quick starts have left in a Redis: endpoints of our own pool that no longer answer, and their blocks.
 * Endpoints of any other pool are left alone. Returns how many were removed.
 */
export async function removeLeftovers({ index, registry }: Backend): Promise<number> {
  const ours = (await registry.endpoints()).filter(({ meta }) => meta.pool === poolName);
  const probed = await Promise.all(ours.map(async (endpoint) => ({ ...endpoint, isAlive: await answers(endpoint.meta.address) })));
  const gone = probed.filter(({ isAlive }) => !isAlive);
  const scopes = new Set(gone.flatMap(({ meta }) => (meta.scope === null ? [] : [meta.scope])));
  for (const { id, meta } of gone) {
    if (meta.scope !== null) await index.forget(meta.scope, id);
    await registry.remove(id);
  }
  for (const scope of scopes) {
    for (let cursor: string | null = "0"; cursor !== null; ) cursor = (await index.sweep(scope, cursor, sweepLimit)).next;
  }
  return gone.length;
}

async function answers(address: string): Promise<boolean> {
  try {
    const response = await fetch(`http://${address}/health`, { signal: AbortSignal.timeout(probeTimeoutMs) });
    await response.body?.cancel();
    return response.ok;
  } catch {
    return false;
  }
}
