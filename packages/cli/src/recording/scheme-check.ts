import { readEngineMetrics } from "@kvatlas/ingester/load/engine-metrics";
import type { BlockStored } from "@kvatlas/shared/events/events";
import { type ExtrasForm, type HashAlgorithm, hashAlgorithms } from "@kvatlas/shared/hashing/key-scheme";
import { type DetectedScheme, SchemeDetector } from "@kvatlas/shared/hashing/scheme-detector";
import type { EngineRun } from "./engine-run.ts";
import type { StreamRun } from "./engine-stream.ts";
import type { ReportBuilder } from "./report.ts";

/** Smallest block that an engine hashes. */
const minBlockSizeTokens = 8;

export interface RunScheme {
  /** Null when no store told. */
  readonly found: DetectedScheme | null;
  /** A detector that knows the scheme from the first store on. */
  readonly detector: SchemeDetector;
}

/**
 * Learns the key scheme of one engine start by the production detector, from all of its stores: unlike an ingester, a recording can go back to
 * the stores before the one that told. A scheme that contradicts what the recording says of algorithm and seed is a problem.
 */
export function learnScheme(run: EngineRun, stream: StreamRun, loraPaths: ReadonlyMap<string, string>, report: ReportBuilder): RunScheme {
  const loraPathOf = (name: string): string | undefined => loraPaths.get(name);
  const algorithm = hashAlgorithms.find((name) => name === run.meta?.algorithm) ?? null;
  const seed = run.meta?.seed ?? null;
  const first = new SchemeDetector({ hints: { algorithm, seed, engineAlgorithms: algorithmsOf(run) }, loraPathOf });
  let line = run.meta?.line ?? 0;
  for (const { batch, line: batchLine } of stream.batches) {
    for (const event of batch.events) {
      if (first.found !== null || event.kind !== "stored") continue;
      first.checkStore(event, batch.wireForm);
      line = batchLine;
    }
  }
  const { found, contradiction } = first;
  if (found === null) return { found: null, detector: first };
  report.scheme(found.scheme.kind === "native" ? found.scheme.algorithm : "content", found.blockSizeTokens);
  // Without a seed nothing is claimed: the engine may have made one up.
  const reproducible = run.meta === null || run.meta.algorithm === null || algorithm !== null;
  if (contradiction !== null && seed !== null && reproducible) report.problem("scheme", line, `${run.engine}: ${contradiction}`);
  const configured = run.meta?.blockSizeTokens ?? null;
  if (configured !== null && configured % found.blockSizeTokens !== 0) {
    report.problem(
      "scheme",
      line,
      `${run.engine}: blocks of ${configured} tokens are recorded, the events have blocks of ${found.blockSizeTokens}`,
    );
  }
  return { found, detector: new SchemeDetector({ known: { ...found, extrasForm: null }, loraPathOf, maxParents: blocksOf(stream) }) };
}

/** Upper bound of the blocks whose digests come up in a stream: all of them are to be remembered, since no one else will know them. */
function blocksOf({ batches }: StreamRun): number {
  let blocks = 1;
  for (const { batch } of batches) {
    for (const event of batch.events) {
      if (event.kind === "stored") blocks += event.hashes.length + Math.ceil(event.tokenIds.length / minBlockSizeTokens);
    }
  }
  return blocks;
}

/** How a release hashes extras when no store with extras has told (vLLM `v1/core/kv_cache_utils.py`). */
export function extrasFormOf(run: EngineRun, learned: ExtrasForm | null): ExtrasForm {
  if (learned !== null) return learned;
  const [, minor] = /^0\.(\d+)/.exec(run.meta?.engineVersion ?? "") ?? [];
  if (minor === undefined) return "tagged";
  return Number(minor) >= 31 ? "tagged" : Number(minor) >= 19 ? "offset" : "plain";
}

function algorithmsOf({ http }: EngineRun): readonly HashAlgorithm[] {
  for (const { path, body } of http) {
    if (path !== "/metrics" || typeof body !== "string") continue;
    const named = readEngineMetrics(body).hashAlgorithm;
    const known = hashAlgorithms.find((algorithm) => algorithm === named);
    if (known !== undefined) return [known];
  }
  return [];
}

/** Whether a store hides extra keys: releases before 0.17 hash salt and media without telling. */
export function hidesExtras(event: BlockStored): boolean {
  return event.extraKeys === null;
}
