import { once } from "node:events";
import { createServer } from "node:net";

/** Below the range from which systems take ephemeral ports. */
const lowest = 15_000;
const highest = 32_000;
const maxTries = 200;

/** First of `count` ports in a row that were free at this moment, for processes that are to come back at the same ports. */
export async function freePortRange(count: number): Promise<number> {
  for (let attempt = 0; attempt < maxTries; attempt++) {
    const base = lowest + Math.floor(Math.random() * (highest - lowest - count));
    const free = await Promise.all(Array.from({ length: count }, (_, offset) => isFree(base + offset)));
    if (free.every(Boolean)) return base;
  }
  throw new Error(`no ${count} free ports in a row between ${lowest} and ${highest}`);
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  try {
    // All interfaces: publishers bind tcp://*.
    server.listen(port);
    await once(server, "listening");
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}
