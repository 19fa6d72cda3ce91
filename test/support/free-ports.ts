import { once } from "node:events";
import { createServer } from "node:net";

/*
 * Below the range from which systems take ephemeral ports. Test files that run at the same time take theirs from different parts of it: between the moment
 * at which a port was seen free and the one at which a process listens there lie seconds.
 */
const lowest = 15_000;
const partCount = 4;
const portsInPart = 1_750;
const maxTries = 200;

/**
 * First of `count` ports in a row that were free at this moment, for processes that are to come back at the same ports.
 *
 * @param avoid - ports that somebody will listen on later
 */
export async function freePortRange(count: number, avoid: ReadonlySet<number> = new Set()): Promise<number> {
  return findPort((base) => Array.from({ length: count }, (_, offset) => base + offset), avoid);
}

/** Ports that are handed out once each, whether or not anybody listens on them yet. */
export class PortPool {
  readonly #taken = new Set<number>();

  /** First of `count` ports in a row. */
  async take(count: number): Promise<number> {
    const first = await freePortRange(count, this.#taken);
    for (let port = first; port < first + count; port++) this.#taken.add(port);
    return first;
  }
}

/** A port for a node of a Redis Cluster: it is free, and so is that of the node's bus, 10,000 above; neither is one that systems hand out. */
export async function freeClusterPort(): Promise<number> {
  return findPort((port) => [port, port + busOffset]);
}

const busOffset = 10_000;

/** First port of which all that `wanted` names are free. */
async function findPort(wanted: (port: number) => readonly number[], avoid: ReadonlySet<number> = new Set()): Promise<number> {
  const first = lowest + portsInPart * (Number(process.env.VITEST_POOL_ID ?? 0) % partCount);
  for (let attempt = 0; attempt < maxTries; attempt++) {
    const port = first + Math.floor(Math.random() * portsInPart);
    if (wanted(port).some((candidate) => avoid.has(candidate))) continue;
    const free = await Promise.all(wanted(port).map(isFree));
    if (free.every(Boolean)) return port;
  }
  throw new Error(`no free ports between ${first} and ${first + portsInPart}`);
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
