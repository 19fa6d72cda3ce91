import type { EngineRun } from "./engine-run.ts";
import { isJson, type RequestLine } from "./recording-line.ts";
import { hidesExtras } from "./scheme-check.ts";
import type { PlacedRun } from "./timeline.ts";

/** What the stores and requests of one engine start have in common, as far as it limits what can be predicted. */
export interface RunTraits {
  /** Largest block of any cache group, tokens; what the recording says of the engine before the first store, else 0. */
  readonly largestBlockTokens: number;
  /** Stores name no kind of cache group (vLLM before 0.22). */
  readonly hasNamelessGroups: boolean;
  /** From when on salted blocks may be in the cache without the events telling; Infinity: never. */
  readonly hiddenSaltsFromMs: number;
  /** From when on removals follow a report of reused blocks; Infinity: never. */
  readonly blurredCopiesFromMs: number;
  /** EAGLE-like drafters make the engine drop the last matched block (vLLM up to 0.32, and 0.33 without lookahead hashing). */
  readonly hasDrafter: boolean;
}

export function runTraits(run: EngineRun, placed: PlacedRun | undefined): RunTraits {
  const saltedFromMs = firstRequest(run, ({ body }) => typeof body.cache_salt === "string" && body.cache_salt !== "");
  const reportedFromMs = firstRequest(run, asksForFullReport);
  let largestBlockTokens = 0;
  let hasNamelessGroups = false;
  let hidesSalts = false;
  let blurredCopiesFromMs = Number.POSITIVE_INFINITY;
  for (const { atMs, batch } of placed?.batches ?? []) {
    for (const event of batch.events) {
      if (event.kind === "removed" && atMs > reportedFromMs) blurredCopiesFromMs = Math.min(blurredCopiesFromMs, atMs);
      if (event.kind !== "stored") continue;
      largestBlockTokens = Math.max(largestBlockTokens, event.blockSizeTokens);
      hasNamelessGroups ||= event.specKind === null;
      hidesSalts ||= hidesExtras(event);
    }
  }
  const args = run.meta?.args.join(" ") ?? "";
  return {
    largestBlockTokens: largestBlockTokens || (run.meta?.blockSizeTokens ?? 0),
    hasNamelessGroups,
    hiddenSaltsFromMs: hidesSalts ? saltedFromMs : Number.POSITIVE_INFINITY,
    blurredCopiesFromMs,
    hasDrafter: /--speculative[-_]config/.test(args) && /eagle|mtp/i.test(args),
  };
}

function firstRequest({ exchanges }: EngineRun, isWanted: (request: RequestLine) => boolean): number {
  return exchanges.find(({ request }) => isWanted(request))?.request.atMs ?? Number.POSITIVE_INFINITY;
}

/** vLLM 0.26+: such a request announces its reused blocks again, and nothing tells these stores from copies. */
function asksForFullReport({ body }: RequestLine): boolean {
  return isJson(body.vllm_xargs) && body.vllm_xargs.kv_cache_report_mode === "full";
}
