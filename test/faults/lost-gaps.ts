import { open } from "node:fs/promises";
import type { EndpointId } from "@kvatlas/shared/types";

/** What an ingester logs, once for each `kvatlas_ingester_lost_gaps_total`. */
const lostMessage = "batches are lost that no replay could bring back";

/**
 * What a gap that was given up leaves: blocks that are gone may still be in the index (rolled: nobody had the batches any more), and where nobody
 * answered, blocks that a replay buffer still has may be missing as well.
 */
export type GapKind = "rolled" | "unanswered";

/** Reads from the logs of ingesters which endpoints have had a gap that nothing could fill, whoever looked after them. */
export class LostGaps {
  readonly #files: readonly { readonly path: string; offset: number; rest: string }[];
  readonly #counts = new Map<EndpointId, number>();
  /** Endpoints with a gap whose traces the index may still show. */
  readonly #open = new Map<EndpointId, GapKind>();

  constructor(paths: readonly string[]) {
    this.#files = paths.map((path) => ({ path, offset: 0, rest: "" }));
  }

  /** All gaps so far. */
  get total(): number {
    let total = 0;
    for (const count of this.#counts.values()) total += count;
    return total;
  }

  /** Endpoints with gaps since they were last settled. */
  async unsettled(): Promise<ReadonlyMap<EndpointId, GapKind>> {
    for (const file of this.#files) await this.#readOn(file);
    return this.#open;
  }

  /** The endpoint's part of the index has been seen to be right. */
  settle(endpoint: EndpointId): void {
    this.#open.delete(endpoint);
  }

  async #readOn(file: { readonly path: string; offset: number; rest: string }): Promise<void> {
    const handle = await open(file.path, "r").catch(() => null);
    if (handle === null) return;
    try {
      const bytes = Buffer.alloc(1 << 16);
      for (;;) {
        const { bytesRead } = await handle.read(bytes, 0, bytes.length, file.offset);
        if (bytesRead === 0) return;
        file.offset += bytesRead;
        const lines = (file.rest + bytes.toString("latin1", 0, bytesRead)).split("\n");
        file.rest = lines.pop() ?? "";
        for (const line of lines) this.#note(line);
      }
    } finally {
      await handle.close();
    }
  }

  #note(line: string): void {
    if (!line.includes(lostMessage)) return;
    const { endpoint, cause } = JSON.parse(line) as { readonly endpoint?: EndpointId; readonly cause?: string };
    if (endpoint === undefined) return;
    this.#counts.set(endpoint, (this.#counts.get(endpoint) ?? 0) + 1);
    if (cause !== "rolled") this.#open.set(endpoint, "unanswered");
    else if (!this.#open.has(endpoint)) this.#open.set(endpoint, "rolled");
  }
}
