import { setTimeout as sleep } from "node:timers/promises";
import { isKvatlasError } from "@kvatlas/shared/errors";
import type { IndexWriter, SequencedOps } from "@kvatlas/shared/index/block-index";

const deadlineMs = 30_000;
const pauseMs = 20;

/**
 * Applies a log from a batch on, as an ingester does: repeats while the store is away, and goes back to where the store is when it has lost something.
 *
 * @returns where the store turned out to be, for each loss
 */
export async function applyThroughLosses(writer: IndexWriter, log: readonly SequencedOps[], from: number): Promise<number[]> {
  const deadline = performance.now() + deadlineMs;
  const losses: number[] = [];
  let rest = log.slice(from);
  while (rest.length > 0) {
    try {
      await writer.apply(rest);
      rest = [];
    } catch (error) {
      if (performance.now() > deadline) throw error;
      if (isKvatlasError(error, "KVATLAS_INDEX_BEHIND")) {
        losses.push(writer.applied);
        rest = log.filter(({ seq }) => seq > writer.applied);
      } else if (isKvatlasError(error, "KVATLAS_REDIS_UNAVAILABLE")) await sleep(pauseMs);
      else throw error;
    }
  }
  return losses;
}
