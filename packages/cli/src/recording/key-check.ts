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
  readonly #salts: readonly string[];

  constructor(run: EngineRun, detector: SchemeDetector, report: ReportBuilder) {
    this.#run = run;
    this.#detector = detector;
    this.#report = report;
    this.#salts = saltsOf(run);
  }

  /** False, and nothing counted, when it could not be done and was not the last try. */
  check({ seq, line, batch }: EngineBatch, event: BlockStored, isLastTry: boolean): boolean {
    const { checked, equal, mismatch, notCheckable } = this.#detector.checkStore(event, batch.wireForm);
    const { hashes } = event;
    if (notCheckable !== null && !isLastTry) return false;
    if (mismatch !== null && hidesExtras(event)) {
      if (this.#salts.some((salt) => isSalted(event, salt, this.#detector))) {
        this.#count(line, hashes.length, hashes.length, "");
        return true;
      }
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
    this.#report.skip(`keys: ${notCheckable ?? "unknown"}`, hashes.length - checked);
    return true;
  }

  #count(line: number, checked: number, equal: number, problem: string): void {
    for (let i = 0; i < checked; i++) this.#report.compare("keys", i < equal, line, () => problem);
  }
}

/** Salts that clients sent: the hash of block 0 has them, old events do not. */
function saltsOf({ exchanges }: EngineRun): readonly string[] {
  const salts = exchanges.map(({ request }) => request.body.cache_salt).filter((salt) => typeof salt === "string" && salt !== "");
  return [...new Set(salts)] as string[];
}

function hasMedia({ exchanges }: EngineRun): boolean {
  return exchanges.some(({ request }) =>
    /"(?:image_url|input_image|image|audio_url|input_audio|video_url|features)"/.test(request.bodyText),
  );
}

/** Whether the store is the chain of its tokens under that salt; if so, its blocks are known as parents from then on. */
function isSalted(event: BlockStored, salt: string, detector: SchemeDetector): boolean {
  const { found } = detector;
  const paired = event.tokenIds.length === event.hashes.length * event.blockSizeTokens;
  if (found?.scheme.kind !== "native" || event.parent !== null || !paired || event.blockSizeTokens !== found.blockSizeTokens) return false;
  const digest = createBlockDigest(found.scheme, "");
  const digests: string[] = [];
  for (const [block, hash] of event.hashes.entries()) {
    const start = block * event.blockSizeTokens;
    const lora = event.loraName === null ? [] : [event.loraName];
    const extras = block === 0 ? [...lora, salt] : lora;
    const parent = digests.at(-1) ?? digest.root(null);
    const next = digest.next(parent, event.tokenIds, start, start + event.blockSizeTokens, extras.length === 0 ? null : extras, null);
    if (keyOfDigest(next) !== (hash as string)) return false;
    digests.push(next);
  }
  for (const known of digests) detector.remember(known);
  return true;
}
