import type { BlockStored } from "@kvatlas/shared/events/events";
import { createBlockDigest, keyOfDigest } from "@kvatlas/shared/hashing/block-digest";
import type { SchemeDetector } from "@kvatlas/shared/hashing/scheme-detector";
import type { EngineRun } from "./engine-run.ts";
import type { EngineBatch, StreamRun } from "./engine-stream.ts";
import type { ReportBuilder } from "./report.ts";
import { hidesExtras } from "./scheme-check.ts";

/** Recomputes every stored block hash of a stream from its tokens, parent and extra keys. */
export function checkKeys(run: EngineRun, stream: StreamRun, detector: SchemeDetector, report: ReportBuilder): void {
  const checker = new KeyChecker(run, detector, report);
  for (const batch of stream.batches) {
    const stores = batch.batch.events.filter((event) => event.kind === "stored");
    // Sliding groups of a hybrid model come before the full-attention group, whose event may be the only one that tells a block's extra keys.
    const open = stores.filter((event) => !checker.check(batch, event, false));
    for (const event of open) checker.check(batch, event, true);
  }
}

class KeyChecker {
  readonly #run: EngineRun;
  readonly #detector: SchemeDetector;
  readonly #report: ReportBuilder;
  readonly #hidden: readonly HiddenExtras[];

  constructor(run: EngineRun, detector: SchemeDetector, report: ReportBuilder) {
    this.#run = run;
    this.#detector = detector;
    this.#report = report;
    this.#hidden = hiddenExtrasOf(run);
  }

  /** False, and nothing counted, when it could not be done and was not the last try. */
  check({ seq, line, batch }: EngineBatch, event: BlockStored, isLastTry: boolean): boolean {
    const { checked, equal, mismatch, notCheckable } = this.#detector.checkStore(event, batch.wireForm);
    const { hashes } = event;
    const mayHide = hidesExtras(event) && (mismatch !== null || notCheckable === "lora name unknown");
    if (mayHide && this.#hidden.some((extras) => isExplainedBy(extras, event, this.#detector))) {
      this.#count(line, hashes.length, hashes.length, "");
      return true;
    }
    if (notCheckable !== null && !isLastTry) return false;
    if (mismatch !== null && hidesExtras(event)) {
      if (this.#run.exchanges.length === 0 || hasMedia(this.#run)) {
        this.#report.skip("keys: extra keys are not on the wire", hashes.length);
        return true;
      }
    }
    const what =
      mismatch === null
        ? "a stored hash differs from the recomputed one"
        : `hash ${mismatch.block + 1} of ${hashes.length} in the store is ${mismatch.got}, computed from its tokens, parent and extra keys: ${mismatch.expected}`;
    this.#count(line, checked, equal, `batch ${seq}: ${what}`);
    this.#report.skip(
      `keys: ${notCheckable === "content scheme" ? "seed not known or random" : (notCheckable ?? "unknown")}`,
      hashes.length - checked,
    );
    return true;
  }

  #count(line: number, checked: number, equal: number, problem: string): void {
    for (let i = 0; i < checked; i++) this.#report.compare("keys", i < equal, line, () => problem);
  }
}

/** What a request adds to its blocks' hashes and old events do not tell. */
interface HiddenExtras {
  readonly lora: string | null;
  readonly salt: string | null;
}

/** Extras of the recorded requests, each once. */
function hiddenExtrasOf({ exchanges }: EngineRun): readonly HiddenExtras[] {
  const found = new Map<string, HiddenExtras>();
  for (const { request } of exchanges) {
    const { cache_salt: salt, model } = request.body;
    const given = typeof salt === "string" && salt !== "" ? salt : null;
    for (const lora of [null, typeof model === "string" ? model : null]) {
      if (lora !== null || given !== null) found.set(JSON.stringify([lora, given]), { lora, salt: given });
    }
  }
  return [...found.values()];
}

function hasMedia({ exchanges }: EngineRun): boolean {
  return exchanges.some(({ request }) =>
    /"(?:image_url|input_image|image|audio_url|input_audio|video_url|features)"/.test(request.bodyText),
  );
}

/** Whether the store is the chain of its tokens under those extras; if so, its blocks are known as parents from then on. */
function isExplainedBy({ lora, salt }: HiddenExtras, event: BlockStored, detector: SchemeDetector): boolean {
  const { found } = detector;
  const paired = event.tokenIds.length === event.hashes.length * event.blockSizeTokens;
  if (found?.scheme.kind !== "native" || !paired || event.blockSizeTokens !== found.blockSizeTokens) return false;
  const digest = createBlockDigest(found.scheme, "");
  let parent = event.parent === null ? digest.root(null) : detector.digestOf(event.parent);
  if (parent === undefined) return false;
  const digests: string[] = [];
  for (const [block, hash] of event.hashes.entries()) {
    const start = block * event.blockSizeTokens;
    const extras = [...(lora === null ? [] : [lora]), ...(salt === null || block > 0 || event.parent !== null ? [] : [salt])];
    parent = digest.next(parent, event.tokenIds, start, start + event.blockSizeTokens, extras.length === 0 ? null : extras, null);
    if (keyOfDigest(parent) !== (hash as string)) return false;
    digests.push(parent);
  }
  for (const known of digests) detector.remember(known);
  return true;
}
