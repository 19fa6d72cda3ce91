import type { Clock } from "@kvatlas/shared/clock";
import { isKvatlasError } from "@kvatlas/shared/errors";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointMeta, EndpointRegistry, Lease } from "@kvatlas/shared/registry/endpoint-registry";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import { metricsOfRank } from "../load/engine-metrics.ts";
import { type ReplicaObservation, sleepStateOf } from "../load/load-scraper.ts";
import type { GapCause, IngesterMetrics } from "../metrics.ts";
import type { FrameQueue } from "../subscriber/frame-queue.ts";
import { EndpointProfile, type FindingName } from "./endpoint-profile.ts";
import { EventApplier } from "./event-applier.ts";
import type { FleetSchemes } from "./fleet-schemes.ts";
import { LagMeter } from "./lag-meter.ts";
import { LiveStream } from "./live-stream.ts";
import { ProcessStartWatch } from "./process-start-watch.ts";
import { ReplayAgenda } from "./replay-agenda.ts";
import { SilenceWatch } from "./silence-watch.ts";
import { StreamIntake } from "./stream-intake.ts";
import { type RebuildCause, StreamRecovery } from "./stream-recovery.ts";
import { TwinWatch } from "./twin-watch.ts";
import { WakeUp } from "./wake-up.ts";

export interface EndpointSessionDeps {
  readonly index: Pick<BlockIndex, "openWriter" | "forget" | "holders">;
  readonly registry: EndpointRegistry;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
  readonly schemes: FleetSchemes;
  /** Where the replica answers replays, asked before each one; null: nowhere. */
  readonly replayAddress: (signal: AbortSignal) => Promise<string | null>;
}

export interface EndpointSessionOptions {
  readonly flushIntervalMs: number;
  readonly maxBatchOps: number;
  readonly maxQueuedBytes: number;
  readonly replayTimeoutMs: number;
  /** An engine that has requests and gets nothing done for this long counts as hung. */
  readonly hungAfterMs: number;
}

/** What one ingester owns of one endpoint. */
export interface OwnedEndpoint {
  readonly target: ReplicaTarget;
  readonly lease: Lease;
  /** The record a former owner has left. */
  readonly stored: EndpointMeta | null;
  readonly queue: FrameQueue;
}

/** Why a session ended: it was asked to, the endpoint has another owner, or something failed that a new session may get over. */
export type SessionEnd = "closed" | "lost" | "failed";

/** Batches that are decoded and held until the key scheme is known take several times the memory of their payloads. */
const heldShareOfQueue = 1 / 8;

/**
 * Keeps one endpoint's part of the index equal to what its engine says, from the moment the lease is held until it is given up or lost.
 *
 * One loop does everything in order: live frames, replays, restarts, writes. Others only leave word (the frame queue, `connected`,
 * `observe`) and wake it. What is in the index for certain is the applier's watermark, from which everything goes on after a failure.
 */
export class EndpointSession {
  readonly #deps: EndpointSessionDeps;
  readonly #owned: OwnedEndpoint;
  readonly #logger: Logger;
  readonly #profile: EndpointProfile;
  readonly #applier: EventApplier;
  readonly #processStart: ProcessStartWatch;
  readonly #intake: StreamIntake;
  readonly #agenda: ReplayAgenda;
  readonly #twins: TwinWatch;
  readonly #silence: SilenceWatch;
  readonly #recovery: StreamRecovery;
  readonly #live: LiveStream;
  readonly #lag = new LagMeter();
  readonly #wakeUp = new WakeUp();
  readonly #abort = new AbortController();
  #running: Promise<SessionEnd> | null = null;
  #closing = false;
  #lost = false;
  #opened = false;
  #isCaughtUp = false;
  #catchUpDue: GapCause | null = null;
  /** What the engine's counters of work said last. */
  #progress: string | null = null;
  /** Batches wait for the key scheme: others may know it by now. */
  #schemeDue = false;
  #restartDue: string | null = null;
  #rebuildDue: RebuildCause | null = null;
  /** Monotonic ms at which the engine was seen with its cache thrown away: what was received before is to be forgotten. */
  #emptyAt: number | null = null;

  constructor(deps: EndpointSessionDeps, options: EndpointSessionOptions, owned: OwnedEndpoint) {
    this.#deps = deps;
    this.#owned = owned;
    this.#logger = deps.logger.child({ endpoint: owned.target.endpoint });
    this.#profile = new EndpointProfile(owned.target, owned.stored, options);
    this.#agenda = new ReplayAgenda(deps.clock, this.#profile);
    this.#twins = new TwinWatch(deps.clock);
    this.#silence = new SilenceWatch(deps.clock, owned.target);
    this.#processStart = new ProcessStartWatch(deps.clock, owned.stored?.processStartSeconds ?? null);
    this.#applier = new EventApplier(
      { ...deps, logger: this.#logger, profile: this.#profile },
      {
        ...options,
        maxHeldBytes: options.maxQueuedBytes * heldShareOfQueue,
        signal: this.#abort.signal,
        onFailure: () => this.#wakeUp.notify(),
        onReuseReports: () => this.#rebuild("reuse reports"),
        onSchemeContradicted: () => this.#rebuild("scheme"),
      },
      owned,
    );
    this.#intake = new StreamIntake(this.#applier, deps.clock);
    const parts = {
      ...deps,
      logger: this.#logger,
      profile: this.#profile,
      applier: this.#applier,
      intake: this.#intake,
      agenda: this.#agenda,
      twins: this.#twins,
      processStart: this.#processStart,
    };
    this.#recovery = new StreamRecovery({ ...parts, isInterrupted: () => this.#closing || this.#restartDue !== null }, owned.target, {
      silenceMs: options.replayTimeoutMs,
      maxBufferedBytes: options.maxQueuedBytes,
      signal: this.#abort.signal,
    });
    this.#live = new LiveStream({ ...parts, recovery: this.#recovery });
  }

  get target(): ReplicaTarget {
    return this.#owned.target;
  }

  get lease(): Lease {
    return this.#owned.lease;
  }

  /** The endpoint's record has been read and its watermark is known. */
  get isOpen(): boolean {
    return this.#opened;
  }

  /** It is open, and what could be replayed at first contact has been. */
  get isCaughtUp(): boolean {
    return this.#isCaughtUp;
  }

  /** 0 before it is open. */
  get incarnation(): number {
    return this.#opened ? this.#applier.incarnation : 0;
  }

  /** Resolves when the session has ended, whatever ended it. */
  start(): Promise<SessionEnd> {
    this.#owned.queue.onPush(() => this.#wakeUp.notify());
    this.#running ??= this.#run();
    return this.#running;
  }

  /** The connection to the publisher is up (again): batches may have been missed, and the engine may be another one. */
  connected(): void {
    this.#silence.connected();
    this.#catchUpDue = this.#isCaughtUp ? "reconnect" : "takeover";
    this.#wakeUp.notify();
  }

  /** The replica has said where it publishes (null: it does not say), and is dialled there. */
  found(source: string | null): void {
    this.#silence.found(source);
  }

  /** Records or, with null, withdraws something that an operator should know. */
  find(name: FindingName, message: string | null): void {
    this.#profile.find(name, message);
  }

  disconnected(): void {
    this.#silence.disconnected();
  }

  observe(observation: ReplicaObservation): void {
    this.#profile.observe(observation);
    const numbers = metricsOfRank(observation.metrics, this.target.rank);
    this.#silence.worked(numbers?.promptTokens ?? null);
    this.#silence.reached(observation.reachable);
    const progress = numbers?.progress ?? this.#progress;
    if (progress !== this.#progress) {
      this.#progress = progress;
      this.#agenda.worked();
      this.#wakeUp.notify();
    }
    const seen = observation.metrics?.processStartSeconds ?? null;
    if (this.#processStart.sees(seen, observation.startedAt, this.#intake.position.since)) {
      this.#restartDue = "its process start time has changed";
      this.#wakeUp.notify();
    }
    this.#profile.processStartSeconds = this.#processStart.known;
    // An engine that falls asleep throws its cache away, and says so in its events only when it has work again. Batches of before may
    // come in after the first look, so every look at a sleeping engine counts.
    const isEmpty = sleepStateOf(observation, this.target.rank) === "discarded";
    if (isEmpty && this.#opened && !this.#applier.isPristine && this.#intake.takenAt < observation.startedAt) {
      this.#emptyAt = observation.startedAt;
      this.#wakeUp.notify();
    }
  }

  /** What the index has of the endpoint is wrong: it is built anew, from what can be replayed. */
  rebuild(): void {
    this.#rebuild("audit");
  }

  /** Writes what has changed about the endpoint, and that it is looked after. */
  async heartbeat(): Promise<void> {
    const { metrics } = this.#deps;
    const endpoint = { endpoint: this.target.endpoint };
    const received = this.#intake.position.live + this.#owned.queue.length;
    const { watermark } = this.#applier;
    metrics.lagBatches.set(endpoint, Math.max(0, received - watermark));
    metrics.lagSeconds.set(endpoint, this.#lag.look(received, watermark, this.#deps.clock.monotonic()) / 1_000);
    metrics.queueBytes.set(endpoint, this.#owned.queue.bytes);
    if (!this.#opened || this.#closing) return;
    const hasHeard = this.#intake.position.applied !== -1 || this.#owned.queue.length > 0;
    this.#profile.find("no-events", this.#silence.reason(hasHeard));
    if (!this.#twins.isSuspected) this.#profile.find("two-publishers", null);
    metrics.showFindings(this.target.endpoint, this.#profile.findingNames);
    this.#applier.noteProgress();
    if (this.#applier.isWaitingForScheme) {
      this.#schemeDue = true;
      this.#wakeUp.notify();
    }
    try {
      await this.#applier.describe();
    } catch (error) {
      if (isKvatlasError(error, "KVATLAS_INDEX_FENCED")) this.#lose();
      else if (!this.#abort.signal.aborted) throw error;
    }
  }

  /** Brings in what has been received, leaves the watermarks settled and ends; after `timeoutMs` it ends as it is. */
  async close(timeoutMs: number): Promise<void> {
    this.#closing = true;
    this.#wakeUp.notify();
    const deadline = setTimeout(() => this.#abort.abort(), timeoutMs);
    await this.#running;
    clearTimeout(deadline);
  }

  /** The lease is lost: nothing more is written. */
  async abandon(): Promise<void> {
    this.#lose();
    await this.#running;
  }

  #rebuild(cause: RebuildCause): void {
    this.#rebuildDue = cause;
    this.#wakeUp.notify();
  }

  #lose(): void {
    this.#lost = true;
    this.#closing = true;
    this.#abort.abort();
    this.#wakeUp.notify();
  }

  async #run(): Promise<SessionEnd> {
    try {
      await this.#open();
      while (!this.#closing) await this.#recovery.withStoreBehind(() => this.#step());
      if (!this.#abort.signal.aborted) await this.#recovery.withStoreBehind(() => this.#finish());
      return this.#lost ? "lost" : "closed";
    } catch (error) {
      if (this.#lost) return "lost";
      if (this.#abort.signal.aborted) return "closed";
      if (isKvatlasError(error, "KVATLAS_INDEX_FENCED") || isKvatlasError(error, "KVATLAS_INDEX_STALE_INCARNATION")) {
        this.#logger.info({ reason: error.message }, "another owner has taken the endpoint over");
        return "lost";
      }
      this.#logger.error({ err: error }, "looking after the endpoint failed; it is taken up again from the stored watermark");
      return "failed";
    } finally {
      this.#closing = true;
      this.#owned.queue.onPush(null);
      this.#abort.abort();
      await this.#applier.discard();
    }
  }

  async #open(): Promise<void> {
    await this.#applier.open();
    const { stored, target } = this.#owned;
    if (stored !== null && stored.model !== "" && stored.model !== target.model) {
      this.#logger.info({ former: stored.model, model: target.model }, "another model is served at this address");
      this.#applier.forgetRun();
      this.#agenda.settleDebt();
      await this.#applier.beginIncarnation(0, "restart");
    }
    const { watermark } = this.#applier;
    // Nothing was given up where the former owner died before it could.
    if (watermark < (this.#agenda.owedFrom ?? 0)) this.#agenda.settleDebt();
    this.#intake.position.resume(watermark, this.#profile.lastBatch ?? null);
    // Frames that came before the lease did are reason enough in bind mode, where no connection is announced.
    if (this.#owned.target.events === null) this.#catchUpDue = "takeover";
    await this.#applier.describe();
    this.#opened = true;
    this.#logger.info(
      { incarnation: this.#applier.incarnation, applied: this.#intake.position.applied, fence: this.lease.fence },
      "looking after the endpoint",
    );
  }

  /** Does the next thing, or sleeps until there is one. */
  async #step(): Promise<void> {
    const { queue } = this.#owned;
    if (this.#restartDue !== null) {
      const reason = this.#restartDue;
      this.#restartDue = null;
      // They may be of the dead run; those of the new one are replayed.
      queue.clear();
      await this.#recovery.restart(reason, "process");
    } else if (this.#rebuildDue !== null) {
      const cause = this.#rebuildDue;
      this.#rebuildDue = null;
      await this.#recovery.rebuild(cause);
    } else if (this.#catchUpDue !== null) {
      const cause = this.#catchUpDue;
      this.#catchUpDue = null;
      await this.#recovery.catchUp(cause);
      this.#isCaughtUp = true;
      this.#schemeDue = this.#applier.isWaitingForScheme;
    } else if (this.#schemeDue) {
      this.#schemeDue = false;
      await this.#applier.assumeScheme();
    } else if (queue.length > 0) {
      const frame = queue.shift();
      if (frame === undefined) return;
      // What came after the look may be of an engine that has woken up.
      if (this.#emptyAt !== null && frame.receivedAt > this.#emptyAt) await this.#forgetCache();
      await this.#live.take(frame);
    } else if (this.#emptyAt !== null) {
      await this.#forgetCache();
    } else if (queue.takeOverflow()) {
      this.#logger.warn({ droppedFrames: queue.dropped }, "more events came in than could be written; the dropped ones are replayed");
      this.#catchUpDue = "overflow";
    } else if (this.#agenda.isDue) {
      await this.#recovery.keepAgenda();
    } else {
      await this.#idle();
    }
  }

  async #forgetCache(): Promise<void> {
    const emptyAt = this.#emptyAt;
    this.#emptyAt = null;
    // A replay has told of it since, and of what was stored after it. Should that have been an earlier clearing, the next look shows it.
    if (emptyAt !== null && this.#intake.beganAnewAt > emptyAt) return;
    await this.#recovery.forgetCache();
  }

  async #idle(): Promise<void> {
    const now = this.#deps.clock.monotonic();
    const writeAt = this.#applier.dueAt ?? Number.POSITIVE_INFINITY;
    if (writeAt <= now) {
      await this.#applier.write();
      return;
    }
    const nextAt = Math.min(writeAt, this.#agenda.dueAt ?? Number.POSITIVE_INFINITY);
    await this.#wakeUp.wait(Number.isFinite(nextAt) ? Math.max(0, nextAt - now) : undefined);
  }

  /** Everything received before the end is written, and the next owner finds settled watermarks. */
  async #finish(): Promise<void> {
    await this.#live.drain(this.#owned.queue, this.#abort.signal);
    await this.#applier.settle();
    this.#applier.noteProgress();
    this.#applier.noteProgress();
    await this.#applier.describe();
  }
}
