import type { Clock } from "@kvatlas/shared/clock";
import { isKvatlasError } from "@kvatlas/shared/errors";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointMeta, EndpointRegistry, Lease } from "@kvatlas/shared/registry/endpoint-registry";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import { metricsOfRank } from "../load/engine-metrics.ts";
import { type ReplicaObservation, sleepStateOf } from "../load/load-scraper.ts";
import type { GapCause, IngesterMetrics, LostCause } from "../metrics.ts";
import type { EngineFrame } from "../subscriber/frame.ts";
import type { FrameQueue, QueuedFrame } from "../subscriber/frame-queue.ts";
import type { ReplayOutcome } from "../subscriber/replay-client.ts";
import { type CatchUpOptions, catchUp, oldestFrom } from "./catch-up.ts";
import { EndpointProfile, type FindingName } from "./endpoint-profile.ts";
import { EventApplier } from "./event-applier.ts";
import { LagMeter } from "./lag-meter.ts";
import { ProcessStartWatch } from "./process-start-watch.ts";
import { ReplayAgenda } from "./replay-agenda.ts";
import { StreamPosition } from "./stream-position.ts";
import { TwinWatch } from "./twin-watch.ts";
import { WakeUp } from "./wake-up.ts";

export interface EndpointSessionDeps {
  readonly index: Pick<BlockIndex, "openWriter" | "forget">;
  readonly registry: EndpointRegistry;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
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

/** A publisher that is not connected for longer is worth a finding. */
const connectGraceMs = 5_000;
/** Prompts of so many tokens leave full blocks behind, whatever the block size. */
const silentAfterPromptTokens = 16_384;
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
  readonly #options: EndpointSessionOptions;
  readonly #owned: OwnedEndpoint;
  readonly #logger: Logger;
  readonly #profile: EndpointProfile;
  readonly #applier: EventApplier;
  readonly #processStart: ProcessStartWatch;
  readonly #position = new StreamPosition();
  readonly #agenda: ReplayAgenda;
  readonly #twins: TwinWatch;
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
  #restartDue: string | null = null;
  #rebuildDue = false;
  /** Monotonic ms at which the engine was seen with its cache thrown away: what was received before is to be forgotten. */
  #emptyAt: number | null = null;
  /** Monotonic ms at which the batch last taken in was received. */
  #takenAt = Number.NEGATIVE_INFINITY;
  /** Monotonic ms since which the publisher is not connected; null while it is, and where it is not for us to connect. */
  #disconnectedSince: number | null;
  /** Where the publisher is dialled; null: nowhere yet, or it dials us. */
  #source: string | null;
  #promptTokens: number | null = null;

  constructor(deps: EndpointSessionDeps, options: EndpointSessionOptions, owned: OwnedEndpoint) {
    this.#deps = deps;
    this.#options = options;
    this.#owned = owned;
    this.#logger = deps.logger.child({ endpoint: owned.target.endpoint });
    this.#profile = new EndpointProfile(owned.target, owned.stored, options);
    this.#source = owned.target.events;
    this.#disconnectedSince = owned.target.events === null && !owned.target.seeksEvents ? null : deps.clock.monotonic();
    this.#agenda = new ReplayAgenda(deps.clock);
    this.#twins = new TwinWatch(deps.clock);
    this.#processStart = new ProcessStartWatch(deps.clock, owned.stored?.processStartSeconds ?? null);
    this.#applier = new EventApplier(
      { ...deps, logger: this.#logger, profile: this.#profile },
      {
        ...options,
        maxHeldBytes: options.maxQueuedBytes * heldShareOfQueue,
        signal: this.#abort.signal,
        onFailure: () => this.#wakeUp.notify(),
      },
      owned,
    );
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
    this.#disconnectedSince = null;
    this.#catchUpDue = this.#isCaughtUp ? "reconnect" : "takeover";
    this.#wakeUp.notify();
  }

  /** The replica has said where it publishes (null: it does not say), and is dialled there. */
  found(source: string | null): void {
    if (source !== this.#source) this.#disconnectedSince ??= this.#deps.clock.monotonic();
    this.#source = source;
  }

  /** Records or, with null, withdraws something that an operator should know. */
  find(name: FindingName, message: string | null): void {
    this.#profile.find(name, message);
  }

  disconnected(): void {
    this.#disconnectedSince ??= this.#deps.clock.monotonic();
  }

  observe(observation: ReplicaObservation): void {
    this.#profile.observe(observation);
    this.#promptTokens = metricsOfRank(observation.metrics, this.target.rank)?.promptTokens ?? this.#promptTokens;
    const progress = metricsOfRank(observation.metrics, this.target.rank)?.progress ?? this.#progress;
    if (progress !== this.#progress) {
      this.#progress = progress;
      this.#agenda.worked();
      this.#wakeUp.notify();
    }
    const seen = observation.metrics?.processStartSeconds ?? null;
    if (this.#processStart.sees(seen, observation.startedAt)) {
      this.#restartDue = "its process start time has changed";
      this.#wakeUp.notify();
    }
    this.#profile.processStartSeconds = this.#processStart.known;
    // An engine that falls asleep throws its cache away, and says so in its events only when it has work again. Batches of before may
    // come in after the first look, so every look at a sleeping engine counts.
    const isEmpty = sleepStateOf(observation, this.target.rank) === "discarded";
    if (isEmpty && this.#opened && !this.#applier.isPristine && this.#takenAt < observation.startedAt) {
      this.#emptyAt = observation.startedAt;
      this.#wakeUp.notify();
    }
  }

  /** What the index has of the endpoint is wrong: it is built anew, from what can be replayed. */
  rebuild(): void {
    this.#rebuildDue = true;
    this.#wakeUp.notify();
  }

  /** Writes what has changed about the endpoint, and that it is looked after. */
  async heartbeat(): Promise<void> {
    const { metrics } = this.#deps;
    const endpoint = { endpoint: this.target.endpoint };
    const received = this.#position.live + this.#owned.queue.length;
    const { watermark } = this.#applier;
    metrics.lagBatches.set(endpoint, Math.max(0, received - watermark));
    metrics.lagSeconds.set(endpoint, this.#lag.look(received, watermark, this.#deps.clock.monotonic()) / 1_000);
    metrics.queueBytes.set(endpoint, this.#owned.queue.bytes);
    if (!this.#opened || this.#closing) return;
    this.#profile.find("no-events", this.#silence());
    if (!this.#twins.isSuspected) this.#profile.find("two-publishers", null);
    this.#applier.noteProgress();
    try {
      await this.#applier.describe();
    } catch (error) {
      if (isKvatlasError(error, "KVATLAS_INDEX_FENCED")) this.#lose();
      else if (!this.#abort.signal.aborted) throw error;
    }
  }

  /** Why there are no events, as a sentence; null while all is well. */
  #silence(): string | null {
    const since = this.#disconnectedSince;
    if (since !== null && this.#deps.clock.monotonic() - since > connectGraceMs) {
      return this.#source === null
        ? `http://${this.target.address}/kv_event_sources names no publisher (vLLM 0.31 and on do): configure events, or start the engine with --kv-events-config.`
        : `No connection to the publisher at ${this.#source}: is the engine started with kv events (--kv-events-config), and bound to this port?`;
    }
    const isSilent = this.#position.applied === -1 && this.#owned.queue.length === 0;
    return since === null && isSilent && (this.#promptTokens ?? 0) >= silentAfterPromptTokens
      ? `The engine has processed ${this.#promptTokens} prompt tokens and published nothing: is enable_kv_cache_events true in --kv-events-config, and the port its own?`
      : null;
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

  #lose(): void {
    this.#lost = true;
    this.#closing = true;
    this.#abort.abort();
    this.#wakeUp.notify();
  }

  async #run(): Promise<SessionEnd> {
    try {
      await this.#open();
      while (!this.#closing) await this.#withStoreBehind(() => this.#step());
      if (!this.#abort.signal.aborted) await this.#withStoreBehind(() => this.#finish());
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
      await this.#applier.beginIncarnation(0, "restart");
    }
    this.#position.resume(this.#applier.watermark, this.#profile.lastBatch ?? null);
    // Frames that came before the lease did are reason enough in bind mode, where no connection is announced.
    if (this.#owned.target.events === null) this.#catchUpDue = "takeover";
    await this.#applier.describe();
    this.#opened = true;
    this.#logger.info(
      { incarnation: this.#applier.incarnation, applied: this.#position.applied, fence: this.lease.fence },
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
      await this.#restart(reason, "process");
    } else if (this.#rebuildDue) {
      this.#rebuildDue = false;
      await this.#rebuildNow();
    } else if (this.#catchUpDue !== null) {
      const cause = this.#catchUpDue;
      this.#catchUpDue = null;
      await this.#catchUp(cause);
      this.#isCaughtUp = true;
    } else if (queue.length > 0) {
      const frame = queue.shift();
      if (frame === undefined) return;
      // What came after the look may be of an engine that has woken up.
      if (this.#emptyAt !== null && frame.receivedAt > this.#emptyAt) await this.#forgetAsleep();
      await this.#takeLive(frame);
    } else if (this.#emptyAt !== null) {
      await this.#forgetAsleep();
    } else if (queue.takeOverflow()) {
      this.#logger.warn({ droppedFrames: queue.dropped }, "more events came in than could be written; the dropped ones are replayed");
      this.#catchUpDue = "overflow";
    } else if (this.#agenda.isDue) {
      await (this.#agenda.owedFrom === null ? this.#catchUp("quiet") : this.#payDebt(this.#agenda.owedFrom));
    } else {
      await this.#idle();
    }
  }

  async #forgetAsleep(): Promise<void> {
    this.#emptyAt = null;
    this.#agenda.settleDebt();
    if (!this.#applier.isPristine) await this.#applier.beginIncarnation(this.#position.applied + 1, "asleep");
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

  async #takeLive(frame: QueuedFrame): Promise<void> {
    const { frames, gaps } = this.#deps.metrics;
    if (this.#twins.isPaused) {
      frames.inc({ outcome: "two publishers" });
      return;
    }
    this.#agenda.heard();
    let step = this.#position.step(frame.seq);
    if (step.kind === "restart" || (step.kind === "duplicate" && this.#position.isOfAnotherRun(frame))) {
      frames.inc({ outcome: "restart" });
      this.#twins.wentBack(this.#position.live);
      await this.#restart("its sequence numbers have gone back", "events");
      // Whatever the replay has brought: this frame is above it, or a duplicate. If not, whoever answered is not who has published it.
      step = this.#position.step(frame.seq);
      if (this.#position.isOfAnotherRun(frame)) {
        frames.inc({ outcome: "two publishers" });
        if (this.#twins.sign()) await this.#leaveAlone();
        return;
      }
    } else if (this.#twins.cameAfter(this.#position.live, frame.seq)) {
      await this.#leaveAlone();
      return;
    }
    this.#position.live = frame.seq;
    if (step.kind === "duplicate") {
      frames.inc({ outcome: "duplicate" });
      return;
    }
    if (step.kind === "gap") {
      frames.inc({ outcome: "gap" });
      if (!this.#applier.isPristine) gaps.inc({ cause: "live" });
      await this.#fillGap(frame.seq);
      if (frame.seq <= this.#position.applied || this.#restartDue !== null) return;
    } else {
      frames.inc({ outcome: "applied" });
    }
    await this.#take(frame, frame.receivedAt);
  }

  /** Two publishers send under this endpoint's name: nothing is true of both. */
  async #leaveAlone(): Promise<void> {
    const hint = "give each engine an address of its own (connect mode) or a topic of its own, kv@<pod ip>:<http port>@<model> (bind mode)";
    if (this.#profile.find("two-publishers", `Two publishers send under this endpoint's name, so its cache is not known; ${hint}.`)) {
      this.#logger.warn({ live: this.#position.live }, "two publishers send under one endpoint's name; it is left alone for a while");
    }
    this.#position.reset();
    this.#agenda.settleDebt();
    this.#applier.forgetRun();
    await this.#applier.beginIncarnation(0, "two publishers");
    await this.#applier.describe();
  }

  /** Afterwards everything below `seq` has been taken in or given up. */
  async #fillGap(seq: number): Promise<void> {
    const live = this.#position.live;
    const outcome = await this.#catchUp("live");
    // Another run was found, and with it another position; the frame is of that run.
    if (this.#position.live !== live) this.#position.live = seq;
    if (this.#position.applied < seq - 1) await this.#giveUp(seq, outcome === null ? "no replay" : "replay silent");
  }

  #take(frame: EngineFrame, receivedAt: number | null): Promise<void> | undefined {
    this.#position.applied = frame.seq;
    this.#takenAt = receivedAt ?? this.#deps.clock.monotonic();
    const taken = this.#applier.take(frame.seq, frame.payload, receivedAt);
    this.#position.mark = this.#applier.lastTaken;
    return taken;
  }

  /** Batches below `next` are lost for good. Blocks that were removed in them would be taken for present. */
  async #giveUp(next: number, cause: LostCause): Promise<void> {
    if (cause === "replay silent") this.#agenda.owe(this.#position.applied + 1);
    const lostBatches = next - 1 - this.#position.applied;
    if (!this.#applier.isPristine) {
      this.#deps.metrics.lost.inc({ cause });
      const { onGap } = this.#owned.target.pool.prefixCache;
      this.#logger.warn({ lostBatches, cause, onGap }, "batches are lost that no replay could bring back");
      this.#profile.find(
        "events-lost",
        `Events were lost for good (${cause}). Give the engine a replay_endpoint in --kv-events-config, or raise its buffer_steps.`,
      );
      if (onGap === "reset") await this.#applier.beginIncarnation(next, "gap");
    }
    this.#position.applied = next - 1;
  }

  /** The engine is another one: its cache is empty and its numbers begin at 0. */
  async #restart(reason: string, seenIn: "events" | "process"): Promise<void> {
    this.#logger.info({ reason }, "the engine has restarted");
    if (seenIn === "events") this.#processStart.restartSeen();
    this.#position.reset();
    this.#agenda.settleDebt();
    this.#applier.forgetRun();
    await this.#applier.beginIncarnation(0, "restart");
    await this.#applier.describe();
    await this.#catchUp("reconnect");
  }

  /** The engine is the same, and so is what has been learned of it; its cache is taken for empty until the replay has said more. */
  async #rebuildNow(): Promise<void> {
    await this.#beginAnew("audit");
  }

  async #beginAnew(cause: "audit" | "recovered"): Promise<void> {
    this.#agenda.settleDebt();
    this.#position.resume(-1, null);
    await this.#applier.beginIncarnation(0, cause);
    await this.#applier.describe();
    await this.#catchUp("audit");
  }

  /**
   * Batches from `seq` on were given up because no replay was answered. When one is, and still has them, the endpoint is built anew from all that
   * can be replayed: then nothing that the publisher still knows is missing.
   */
  async #payDebt(seq: number): Promise<void> {
    const address = await this.#deps.replayAddress(this.#abort.signal);
    const oldest = address === null ? "unanswered" : await oldestFrom({ logger: this.#logger }, this.#replayOptions(), address, seq);
    if (oldest === "unanswered") {
      this.#agenda.unanswered();
      return;
    }
    this.#agenda.settleDebt();
    this.#agenda.answered();
    const { onGap } = this.#owned.target.pool.prefixCache;
    if (oldest === seq && onGap === "reset") {
      this.#logger.info({ from: seq }, "batches that were given up can be replayed after all");
      await this.#beginAnew("recovered");
    } else {
      await this.#catchUp("quiet");
    }
  }

  /** Replays what has been missed. Null when there is nobody to ask. */
  async #catchUp(cause: GapCause): Promise<ReplayOutcome["kind"] | null> {
    if (this.#twins.isPaused) {
      this.#agenda.unanswered();
      return null;
    }
    const address = await this.#deps.replayAddress(this.#abort.signal);
    if (address === null) {
      this.#profile.find("replay", "The replica has no known replay socket: a gap costs what is known of its cache.");
      this.#agenda.unanswered();
      return null;
    }
    this.#profile.find("replay", null);
    const result = await catchUp(
      { logger: this.#logger, metrics: this.#deps.metrics },
      {
        take: (frame) => this.#take(frame, null),
        isPristine: () => this.#applier.isPristine,
        giveUp: (next, lostCause) => this.#giveUp(next, lostCause),
        isInterrupted: () => this.#closing || this.#restartDue !== null,
      },
      this.#replayOptions(),
      address,
      this.#position,
      cause,
    );
    if (result.outcome === "complete") this.#agenda.answered();
    else this.#agenda.unanswered();
    if (result.otherRun !== null) await this.#restart(result.otherRun, "events");
    return result.outcome;
  }

  #replayOptions(): CatchUpOptions {
    return { silenceMs: this.#options.replayTimeoutMs, maxBufferedBytes: this.#options.maxQueuedBytes, signal: this.#abort.signal };
  }

  /** Everything received before the end is written, and the next owner finds settled watermarks. */
  async #finish(): Promise<void> {
    for (let frame = this.#owned.queue.shift(); frame !== undefined && !this.#abort.signal.aborted; frame = this.#owned.queue.shift()) {
      const step = this.#position.step(frame.seq);
      // A gap is for the next owner to fill.
      if (step.kind !== "apply") break;
      this.#position.live = frame.seq;
      await this.#take(frame, frame.receivedAt);
    }
    await this.#applier.settle();
    this.#applier.noteProgress();
    this.#applier.noteProgress();
    await this.#applier.describe();
  }

  /** Runs work that may find the store behind what it had acknowledged (failover, flush): replayed like any other hole. */
  async #withStoreBehind(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isKvatlasError(error, "KVATLAS_INDEX_BEHIND")) throw error;
      this.#logger.warn({ reason: error.message }, "the store has lost writes it had acknowledged; they are replayed");
      const takenIn = this.#position.applied;
      const { incarnation } = this.#applier;
      await this.#applier.discard();
      this.#profile.describeAnew();
      this.#position.applied = Math.min(takenIn, this.#applier.watermark);
      await this.#catchUp("behind");
      // Without a further live batch nobody would notice what is still missing.
      if (this.#applier.incarnation === incarnation && this.#position.applied < takenIn) await this.#giveUp(takenIn + 1, "replay silent");
    }
  }
}
