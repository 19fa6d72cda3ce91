import type { Clock } from "@kvatlas/shared/clock";
import type { BlockStored, EventBatch, KvEvent, WireForm } from "@kvatlas/shared/events/events";
import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import { namesMediaByAdapter } from "@kvatlas/shared/hashing/adapter-media";
import { sameScheme, scopeIdOf } from "@kvatlas/shared/hashing/key-scheme";
import type { BlockIndex, IndexOp, IndexWriter } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRegistry, Lease } from "@kvatlas/shared/registry/endpoint-registry";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import type { IngesterMetrics, ResetCause } from "../metrics.ts";
import type { BatchMark } from "../subscriber/sequence-tracker.ts";
import { EndpointIncarnation } from "./endpoint-incarnation.ts";
import type { EndpointProfile } from "./endpoint-profile.ts";
import type { FleetSchemes } from "./fleet-schemes.ts";
import { GroupCatalog } from "./group-catalog.ts";
import { HeldBatches } from "./held-batches.ts";
import { isHeldTwice } from "./held-twice.ts";
import { IndexFeed } from "./index-feed.ts";
import type { KeyTranslator } from "./key-translator.ts";
import { ProgressMark } from "./progress-mark.ts";
import { ReuseReports } from "./reuse-reports.ts";
import { type LearnedKeys, SchemeLearner } from "./scheme-learner.ts";
import { SkipLog } from "./skip-log.ts";
import { untilStored } from "./store-retry.ts";
import { translatorOfScheme } from "./translator-of-scheme.ts";

export interface EventApplierDeps {
  readonly index: Pick<BlockIndex, "openWriter" | "forget" | "holders">;
  readonly registry: EndpointRegistry;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
  readonly profile: EndpointProfile;
  readonly schemes: FleetSchemes;
}

export interface EventApplierOptions {
  readonly flushIntervalMs: number;
  readonly maxBatchOps: number;
  /** Bytes of batches that are held until the key scheme is known. */
  readonly maxHeldBytes: number;
  readonly signal: AbortSignal;
  /** Something has failed that the next `write` rejects with. */
  readonly onFailure: () => void;
  /** Stores that were counted as copies have turned out to be reports of reuse: what is in the index is to be built anew. */
  readonly onReuseReports: () => void;
  /** The endpoint was taken for another than it is: what is in the index is to be built anew. */
  readonly onSchemeContradicted: () => void;
}

const reuseFinding =
  "Requests use kv_cache_report_mode full: stores of blocks that are held already are not counted as copies. " +
  "Keep requests from setting it, or set prefixCache.reuseReports.";

/**
 * Takes an endpoint's batches in, in order, and brings them into the index: decode, learn what cannot be configured, translate to block
 * keys, group, write. Nothing is written before block size and key scheme are known.
 *
 * Calls come one after another. After a call has failed, `discard` and go on from `watermark`.
 */
export class EventApplier {
  readonly #deps: EventApplierDeps;
  readonly #options: EventApplierOptions;
  readonly #target: ReplicaTarget;
  readonly #lease: Lease;
  readonly #groups: GroupCatalog;
  readonly #learner: SchemeLearner;
  readonly #held: HeldBatches;
  readonly #reuse: ReuseReports;
  readonly #skips: SkipLog;
  readonly #incarnation: EndpointIncarnation;
  readonly #progress = new ProgressMark();
  #feed: IndexFeed | null = null;
  #translator: KeyTranslator | null = null;
  #wireForm: WireForm | null = null;
  #clears = 0;

  constructor(deps: EventApplierDeps, options: EventApplierOptions, owned: { readonly target: ReplicaTarget; readonly lease: Lease }) {
    this.#deps = deps;
    this.#options = options;
    this.#target = owned.target;
    this.#lease = owned.lease;
    this.#incarnation = new EndpointIncarnation({ ...deps, stored: (call) => this.#stored(call) }, owned.lease);
    this.#groups = new GroupCatalog(deps.profile.groups);
    this.#learner = new SchemeLearner(deps, owned.target);
    this.#held = new HeldBatches(options.maxHeldBytes);
    this.#skips = new SkipLog(deps);
    this.#reuse = new ReuseReports(deps.clock, owned.target.pool.prefixCache.reuseReports, deps.profile.reportsReuse);
    if (this.#reuse.isShown) deps.profile.find("reuse-reports", reuseFinding);
  }

  get incarnation(): number {
    return this.#incarnation.number;
  }

  /** Sequence number at which the incarnation begins. */
  get from(): number {
    return this.#incarnation.from;
  }

  /** Nothing is known of batches before this one. */
  get knownFrom(): number {
    return this.#incarnation.knownFrom;
  }

  /** Highest sequence number that is in the index for certain. */
  get watermark(): number {
    return this.#feed?.writer.applied ?? this.#incarnation.from - 1;
  }

  /** The incarnation was begun here and nothing has been taken in since: a hole before its first batch costs nothing. */
  get isPristine(): boolean {
    return this.#incarnation.isPristine;
  }

  /** The batch last taken in. */
  get lastTaken(): BatchMark | null {
    return this.#progress.last;
  }

  /** Batches taken in so far that told of a cleared cache. */
  get clears(): number {
    return this.#clears;
  }

  /** Monotonic ms at which `write` is due; null before anything can be written. */
  get dueAt(): number | null {
    return this.#feed?.dueAt ?? null;
  }

  /** Goes on where the record of the endpoint ends; begins its first incarnation when there is none. */
  async open(): Promise<void> {
    const { registry, profile } = this.#deps;
    const { endpoint } = this.#target;
    const state = await this.#stored(() => registry.state(endpoint));
    if (state.incarnation === 0) {
      await this.beginIncarnation(0, null);
      return;
    }
    this.#incarnation.resume(state);
    const { scope } = profile;
    if (scope === null) return;
    const spec = (await this.#stored(() => registry.scopes())).get(scope);
    if (spec === undefined) return;
    // Where Redis is another one than the scope was registered in, it gets a layout that suits.
    await this.#stored(() => registry.ensureScope(scope, spec));
    const writer = await this.#incarnation.openWriter(scope, 0);
    this.#feed = this.#feedOf(writer);
    // Before the first write of an incarnation the engine may be another one than the scheme was learned from, and so may the configured model.
    if (writer.applied >= this.#incarnation.from && spec.model === this.#target.model) {
      this.#learner.adopt({ ...spec, extrasForm: profile.extrasForm, lookaheadTokens: profile.lookaheadTokens });
      this.#useKeys(spec);
    }
  }

  /** Batches are held because nothing says how the endpoint makes its keys. */
  get isWaitingForScheme(): boolean {
    return this.#translator === null && this.#held.length > 0;
  }

  /** Brings in what is held, where the endpoint's past, its pool or the configuration say how it makes its keys. */
  async assumeScheme(): Promise<void> {
    if (!this.isWaitingForScheme) return;
    const assumed = await this.#stored(() => this.#learner.assume(this.#held.events()));
    if (assumed !== null) await this.#openScope(assumed);
  }

  /**
   * Takes one batch in; numbers ascend. A payload that cannot be decoded counts as a batch without events.
   * The promise, when there is one, resolves when the next batch may be taken.
   */
  take(seq: number, payload: Uint8Array, receivedAt: number | null): Promise<void> | undefined {
    const batch = this.#decode(seq, payload);
    if (batch !== null) {
      this.#progress.taken({ seq, timestampSeconds: batch.timestampSeconds });
      this.#wireForm = batch.wireForm ?? this.#wireForm;
    }
    const events = batch?.events ?? [];
    const cleared = events.findLastIndex((event) => event.kind === "cleared");
    if (cleared !== -1) return this.#takeCleared(seq, payload, events.slice(cleared + 1), receivedAt);
    this.#incarnation.taken(seq);
    return this.#takeEvents(seq, payload.byteLength, events, receivedAt);
  }

  /**
   * Makes everything known of the endpoint dead at once, in the registry and then in the index. What has been taken in and not written is
   * forgotten: it belongs to the dead incarnation.
   */
  async beginIncarnation(from: number, cause: ResetCause | null): Promise<void> {
    await this.discard();
    await this.#incarnation.begin(from, cause);
    // Not before: a later owner must not go on without counting from counts that are too high.
    this.#deps.profile.reportsReuse = this.#reuse.isShown;
    if (this.#feed !== null) {
      this.#feed = this.#feedOf(await this.#incarnation.openWriter(this.#feed.writer.target.scope, from));
    }
    const { learned } = this.#learner;
    if (this.#translator !== null && learned !== null) this.#useKeys(learned);
  }

  /** The engine is another one: block size, key scheme and cache groups are learned anew. */
  forgetRun(): void {
    this.#learner.reset();
    this.#groups.clear();
    this.#reuse.reset();
    this.#deps.profile.forgetRun();
    this.#translator = null;
    this.#progress.forget();
  }

  /** Begins to write what waits. */
  async write(): Promise<void> {
    await this.#feed?.write();
  }

  /** Everything taken in is in the index and every shard's watermark is up. */
  async settle(): Promise<void> {
    const feed = this.#feed;
    if (feed === null) return;
    await feed.flush();
    await this.#stored(() => feed.writer.settle());
  }

  /** Forgets what has been taken in and is not in the index. */
  async discard(): Promise<void> {
    this.#held.clear();
    await this.#feed?.discard();
  }

  /** As `discard`, after the store has lost writes it had acknowledged. */
  async rewind(): Promise<void> {
    await this.discard();
    this.#translator?.rewind();
  }

  /** Leaves the newest batch that is certainly in the index in the profile; to be called now and then. */
  noteProgress(): void {
    const mark = this.#progress.look(this.watermark);
    if (mark !== null) this.#deps.profile.lastBatch = mark;
  }

  /** Writes the changed part of the endpoint's record. */
  async describe(): Promise<void> {
    const { registry, clock, profile } = this.#deps;
    this.#learner.share();
    const { meta, commit } = profile.changes();
    if (!(await this.#stored(() => registry.describe(this.#lease, meta, clock.now())))) throw this.#incarnation.fenced();
    commit();
  }

  /** A clear: the rest of its batch belongs to an incarnation that begins with this very batch, so that replaying it changes nothing. */
  async #takeCleared(seq: number, payload: Uint8Array, rest: readonly KvEvent[], receivedAt: number | null): Promise<void> {
    this.#clears += 1;
    this.#deps.metrics.events.inc({ kind: "cleared" });
    if (this.#incarnation.from !== seq || !this.isPristine) await this.beginIncarnation(seq, "cleared");
    this.#incarnation.taken(seq);
    await this.#takeEvents(seq, payload.byteLength, rest, receivedAt);
  }

  #takeEvents(seq: number, bytes: number, events: readonly KvEvent[], receivedAt: number | null): Promise<void> | undefined {
    let groupsChanged = false;
    let stored = 0;
    for (const event of events) {
      if (event.kind !== "stored") continue;
      stored++;
      groupsChanged = this.#groups.learn(event) || groupsChanged;
      this.#deps.profile.mediaByAdapter = namesMediaByAdapter(event) ?? this.#deps.profile.mediaByAdapter;
    }
    if (stored > 0) this.#deps.metrics.events.inc({ kind: "stored" }, stored);
    if (stored < events.length) this.#deps.metrics.events.inc({ kind: "removed" }, events.length - stored);
    if (groupsChanged) this.#deps.profile.groups = this.#groups.list();
    if (this.#learner.isAssumed && stored > 0) {
      const assumed = this.#learner.learned;
      const found = this.#learner.learn(events, this.#wireForm);
      if (found !== null && assumed !== null && !isSameKeys(found, assumed)) {
        this.#held.push({ seq, events, bytes, receivedAt });
        return this.#contradicted(found);
      }
    }
    if (this.#translator !== null) {
      for (const event of events) if (event.kind === "stored") this.#learner.check(event, this.#wireForm);
      const added = this.#translate(seq, events, receivedAt, this.#translator);
      const suspect = this.#reuse.suspect(events);
      if (suspect !== null) return this.#lookAtSuspect(suspect, added, groupsChanged);
      return groupsChanged ? Promise.resolve(added).then(() => this.describe()) : added;
    }
    const dropped = this.#held.push({ seq, events, bytes, receivedAt });
    if (dropped > 0) this.#skips.add("before the key scheme was known", dropped);
    const learned = this.#learner.learn(events, this.#wireForm);
    return learned === null ? undefined : this.#openScope(learned);
  }

  /** Whether a store from the root names blocks that were held before it: then each of them is there twice now. */
  async #lookAtSuspect(suspect: BlockStored, added: Promise<void> | undefined, groupsChanged: boolean): Promise<void> {
    await added;
    if (groupsChanged) await this.describe();
    const { index, profile, logger } = this.#deps;
    const feed = this.#feed;
    const translator = this.#translator;
    const ends = [suspect.hashes[0], suspect.hashes.at(-1)];
    const keys = ends.flatMap((hash) => (hash === undefined ? [] : (translator?.keyOf(hash, suspect.group) ?? [])));
    if (feed === null || keys.length < ends.length) return;
    await feed.flush();
    const wereHeld = await this.#stored(() => isHeldTwice(index, feed.writer.target, suspect, keys));
    if (!this.#reuse.looked(wereHeld)) return;
    profile.find("reuse-reports", reuseFinding);
    logger.warn("requests of this engine report the blocks they reuse as stored once more; it is built anew without counting those");
    this.#options.onReuseReports();
  }

  /** What was written under the wrong scope goes with it; what can be replayed comes in under the right one. */
  async #contradicted(found: LearnedKeys): Promise<void> {
    const assumed = this.#feed?.writer.target.scope ?? null;
    this.#deps.logger.warn({ assumed }, "the endpoint makes its keys in another way than was assumed; it is built anew");
    await this.#openScope(found);
    this.#options.onSchemeContradicted();
  }

  async #openScope(learned: LearnedKeys): Promise<void> {
    const { registry, index, profile, logger } = this.#deps;
    const { endpoint, model } = this.#target;
    const spec = { model, blockSizeTokens: learned.blockSizeTokens, scheme: learned.scheme };
    const scope = scopeIdOf(spec);
    await this.#stored(() => registry.ensureScope(scope, spec));
    const former = this.#feed?.writer.target.scope ?? null;
    profile.scope = scope;
    await this.describe();
    if (this.#feed === null || former !== scope) {
      const writer = await this.#incarnation.openWriter(scope, this.#incarnation.from);
      await this.#feed?.discard();
      this.#feed = this.#feedOf(writer);
      if (former !== null) await this.#stored(() => index.forget(former, endpoint));
    }
    this.#useKeys(learned);
    const { isAssumed } = this.#learner;
    const known = { scope, blockSizeTokens: learned.blockSizeTokens, heldBatches: this.#held.length, isAssumed };
    logger.info(known, "block size and key scheme are known");
    for (let held = this.#held.shift(); held !== undefined; held = this.#held.shift()) {
      if (this.#translator !== null) await this.#translate(held.seq, held.events, held.receivedAt, this.#translator);
    }
  }

  #translate(seq: number, events: readonly KvEvent[], receivedAt: number | null, translator: KeyTranslator): Promise<void> | undefined {
    const ops = translator.translate(seq, events);
    return ops instanceof Promise
      ? ops.then((resolved) => this.#feedBatch(seq, resolved, receivedAt))
      : this.#feedBatch(seq, ops, receivedAt);
  }

  #feedBatch(seq: number, ops: readonly IndexOp[], receivedAt: number | null): Promise<void> | undefined {
    // Skipped by every shard anyway: the held batches of a former owner's incarnation.
    return this.#feed?.add({ seq, ops, receivedAt });
  }

  #useKeys(keys: Pick<LearnedKeys, "scheme" | "blockSizeTokens">): void {
    this.#translator = translatorOfScheme(
      keys.scheme,
      {
        keysOf: async (names) => {
          const feed = this.#feed;
          return feed === null ? names.map(() => null) : this.#stored(() => feed.writer.keysOf(names));
        },
        clock: this.#deps.clock,
        skips: this.#skips,
        storeOp: (event) => this.#reuse.opOf(event),
      },
      {
        model: this.#target.model,
        blockSizeTokens: keys.blockSizeTokens,
        chainGroup: () => this.#groups.chainGroup(keys.blockSizeTokens),
        isNameless: this.#incarnation.takeNameless(),
      },
    );
  }

  #feedOf(writer: IndexWriter): IndexFeed {
    const { clock, logger, metrics } = this.#deps;
    const onWritten = (seq: number): void => this.#translator?.written(seq);
    return new IndexFeed({ clock, logger, metrics }, { ...this.#options, onWritten }, writer);
  }

  #decode(seq: number, payload: Uint8Array): EventBatch | null {
    const { profile } = this.#deps;
    try {
      const batch = decodeEventBatch(payload);
      for (const [reason, count] of batch.skipped) this.#skips.add(reason, count, { seq });
      return batch;
    } catch (error) {
      this.#skips.add("undecodable batch", 1, { err: error, seq });
      profile.find("undecodable-events", `Batch ${seq} could not be decoded: is the publisher a vLLM engine, 0.10 or later?`);
      return null;
    }
  }

  #stored<T>(call: () => Promise<T>): Promise<T> {
    const { logger, metrics } = this.#deps;
    return untilStored(call, { logger, onRetry: () => metrics.storeRetries.inc() }, this.#options.signal);
  }
}

function isSameKeys(a: LearnedKeys, b: LearnedKeys): boolean {
  return sameScheme(a.scheme, b.scheme) && a.blockSizeTokens === b.blockSizeTokens;
}
