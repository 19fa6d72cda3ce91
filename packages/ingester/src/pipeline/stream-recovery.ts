import { isKvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import type { GapCause, IngesterMetrics, LostCause, ResetCause } from "../metrics.ts";
import type { ReplayOutcome } from "../subscriber/replay-client.ts";
import { type CatchUpOptions, catchUp, oldestFrom } from "./catch-up.ts";
import type { EndpointProfile } from "./endpoint-profile.ts";
import type { EventApplier } from "./event-applier.ts";
import type { ProcessStartWatch } from "./process-start-watch.ts";
import type { ReplayAgenda } from "./replay-agenda.ts";
import type { StreamIntake } from "./stream-intake.ts";
import type { TwinWatch } from "./twin-watch.ts";

export interface StreamRecoveryDeps {
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
  readonly profile: EndpointProfile;
  readonly applier: EventApplier;
  readonly intake: StreamIntake;
  readonly agenda: ReplayAgenda;
  readonly twins: TwinWatch;
  readonly processStart: ProcessStartWatch;
  /** Where the replica answers replays, asked before each one; null: nowhere. */
  readonly replayAddress: (signal: AbortSignal) => Promise<string | null>;
  /** Something else is more urgent than going on with a replay. */
  readonly isInterrupted: () => boolean;
}

/** Why what is known of an endpoint is built anew although its engine is the same. */
export type RebuildCause = Extract<ResetCause, "audit" | "recovered" | "reuse reports" | "scheme">;

/**
 * What is done about everything that is missing from one endpoint's stream: replays, batches that nobody has any more, runs that have ended, an
 * index that is behind what it had acknowledged. Called from the session's loop, one call after another.
 */
export class StreamRecovery {
  readonly #deps: StreamRecoveryDeps;
  readonly #target: ReplicaTarget;
  readonly #options: CatchUpOptions;

  constructor(deps: StreamRecoveryDeps, target: ReplicaTarget, options: CatchUpOptions) {
    this.#deps = deps;
    this.#target = target;
    this.#options = options;
  }

  /** Replays what has been missed. Null when there is nobody to ask. */
  async catchUp(cause: GapCause): Promise<ReplayOutcome["kind"] | null> {
    const { twins, agenda, profile, applier, intake } = this.#deps;
    if (twins.isPaused) {
      agenda.unanswered();
      return null;
    }
    const address = await this.#deps.replayAddress(this.#options.signal);
    if (address === null) {
      profile.find("replay", "The replica has no known replay socket: a gap costs what is known of its cache.");
      agenda.unanswered();
      return null;
    }
    profile.find("replay", null);
    agenda.asked();
    const result = await catchUp(
      this.#deps,
      {
        take: (frame) => intake.take(frame, null),
        isPristine: () => applier.isPristine,
        giveUp: (next, lostCause) => this.giveUp(next, lostCause),
        isInterrupted: this.#deps.isInterrupted,
      },
      this.#options,
      address,
      intake.position,
      cause,
    );
    if (result.outcome === "complete") agenda.answered();
    else agenda.unanswered();
    if (result.otherRun !== null) await this.restart(result.otherRun, "events");
    return result.outcome;
  }

  /**
   * Live batch `seq` has come, and some before it have not. True when it may be taken now: everything below it has been taken in or given up. An
   * owner that is interrupted gives nothing up: whoever goes on replays from the watermark, as if the batch had not come.
   */
  async fillGap(seq: number): Promise<boolean> {
    const { position } = this.#deps.intake;
    const { live } = position;
    const outcome = await this.catchUp("live");
    // Another run was found, and with it another position; the frame is of that run.
    if (position.live !== live) position.live = seq;
    if (this.#deps.isInterrupted()) return false;
    if (position.applied < seq - 1) await this.giveUp(seq, outcome === null ? "no replay" : "replay silent");
    return position.applied < seq;
  }

  /** Batches below `next` are lost for good. Blocks that were removed in them would be taken for present. */
  async giveUp(next: number, cause: LostCause): Promise<void> {
    const { applier, metrics, profile, logger } = this.#deps;
    const { position } = this.#deps.intake;
    const lostBatches = next - 1 - position.applied;
    // Whoever could not be asked, or did not answer, may still have them.
    if (cause !== "rolled") await this.#owe(position.applied + 1);
    if (!applier.isPristine) {
      metrics.lost.inc({ cause });
      const { onGap } = this.#target.pool.prefixCache;
      logger.warn({ lostBatches, cause, onGap }, "batches are lost that no replay could bring back");
      profile.find(
        "events-lost",
        `Events were lost for good (${cause}). Give the engine a replay_endpoint in --kv-events-config, or raise its buffer_steps.`,
      );
      if (onGap === "reset") await applier.beginIncarnation(next, "gap");
    }
    position.applied = next - 1;
  }

  /** The engine is another one: its cache is empty and its numbers begin at 0. */
  async restart(reason: string, seenIn: "events" | "process"): Promise<void> {
    this.#deps.logger.info({ reason }, "the engine has restarted");
    if (seenIn === "events") this.#deps.processStart.restartSeen();
    await this.#forgetRun("restart");
    await this.catchUp("reconnect");
  }

  /** Two publishers send under this endpoint's name: nothing is true of both. */
  async leaveAlone(): Promise<void> {
    const { profile, logger, intake } = this.#deps;
    const hint = "give each engine an address of its own (connect mode) or a topic of its own, kv@<pod ip>:<http port>@<model> (bind mode)";
    if (profile.find("two-publishers", `Two publishers send under this endpoint's name, so its cache is not known; ${hint}.`)) {
      logger.warn({ live: intake.position.live }, "two publishers send under one endpoint's name; it is left alone for a while");
    }
    await this.#forgetRun("two publishers");
  }

  /** The engine is the same, and so is what has been learned of it; its cache is taken for empty until the replay has said more. */
  async rebuild(cause: RebuildCause): Promise<void> {
    const { agenda, applier, intake } = this.#deps;
    agenda.settleDebt();
    intake.position.resume(-1, null);
    await applier.beginIncarnation(0, cause);
    await applier.describe();
    await this.catchUp("audit");
  }

  /** The engine has thrown its cache away, whatever it says about that later. */
  async forgetCache(): Promise<void> {
    const { agenda, applier, intake } = this.#deps;
    agenda.settleDebt();
    if (!applier.isPristine) await applier.beginIncarnation(intake.position.applied + 1, "asleep");
  }

  /** Does what the agenda says is due. */
  async keepAgenda(): Promise<void> {
    const { owedFrom } = this.#deps.agenda;
    await (owedFrom === null ? this.catchUp("quiet") : this.#payDebt(owedFrom));
  }

  /** Runs work that may find the store behind what it had acknowledged (failover, flush): replayed like any other hole. */
  async withStoreBehind(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isKvatlasError(error, "KVATLAS_INDEX_BEHIND")) throw error;
      const { logger, applier, profile, intake } = this.#deps;
      const { position } = intake;
      logger.warn({ reason: error.message }, "the store has lost writes it had acknowledged; they are replayed");
      const takenIn = position.applied;
      const { incarnation } = applier;
      await applier.rewind();
      profile.describeAnew();
      position.applied = Math.min(takenIn, applier.watermark);
      await this.catchUp("behind");
      // Without a further live batch nobody would notice what is still missing; but an owner that is interrupted leaves that to the next one.
      const isMissing = applier.incarnation === incarnation && position.applied < takenIn;
      if (isMissing && !this.#deps.isInterrupted()) await this.giveUp(takenIn + 1, "replay silent");
    }
  }

  /** Nothing that was learned of the run that has ended holds for the next one. */
  async #forgetRun(cause: "restart" | "two publishers"): Promise<void> {
    const { applier, agenda, intake } = this.#deps;
    intake.reset();
    agenda.settleDebt();
    applier.forgetRun();
    await applier.beginIncarnation(0, cause);
    await applier.describe();
  }

  /** Described before anything is begun anew, so that a later owner knows of the debt whenever it takes over. */
  async #owe(seq: number): Promise<void> {
    const { agenda, applier } = this.#deps;
    // An older debt covers it, and is in the record.
    if (agenda.owedFrom !== null && agenda.owedFrom <= seq) return;
    agenda.owe(seq);
    await applier.describe();
  }

  /**
   * Batches from `seq` on were given up because no replay was answered. When one is, and still has some of them, the endpoint is built anew from all that
   * can be replayed: then nothing that the publisher still knows is missing.
   */
  async #payDebt(seq: number): Promise<void> {
    const { agenda, logger } = this.#deps;
    const address = await this.#deps.replayAddress(this.#options.signal);
    agenda.asked();
    const oldest = address === null ? "unanswered" : await oldestFrom({ logger }, this.#options, address, seq);
    if (oldest === "unanswered") {
      agenda.unanswered();
      return;
    }
    agenda.settleDebt();
    agenda.answered();
    if (oldest !== null && this.#bringsBack(oldest, seq)) {
      logger.info({ from: oldest }, "batches that were given up can be replayed after all");
      if (oldest === seq) this.#deps.profile.find("events-lost", null);
      await this.rebuild("recovered");
    } else {
      await this.catchUp("quiet");
    }
  }

  /**
   * Whether a replay that begins with `oldest` has more of the given-up batches than what is known, and all of that. Where gaps are to be left alone, only if
   * the gap was the first of the incarnation: nothing that is known goes for it.
   */
  #bringsBack(oldest: number, seq: number): boolean {
    const { applier } = this.#deps;
    if (this.#target.pool.prefixCache.onGap === "keep") return oldest === seq && seq === applier.from;
    return oldest === seq || oldest < applier.knownFrom;
  }
}
