import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import type { JobsConnection } from "@kvatlas/shared/redis-jobs";
import { type Job, Queue, Worker } from "bullmq";
import { orAborted } from "../pipeline/store-retry.ts";
import type { HousekeepingMetrics } from "./housekeeping-metrics.ts";
import { type HousekeepingJobs, isJobName, jobNames } from "./jobs.ts";

export interface FleetHousekeepingDeps {
  /** Opened by `start`, closed by `close`. */
  readonly connect: () => JobsConnection;
  readonly jobs: HousekeepingJobs;
  readonly logger: Logger;
  readonly metrics: HousekeepingMetrics;
}

export interface FleetHousekeepingOptions {
  readonly instanceId: string;
  /** How long a job stays with an instance that has fallen silent; then another one runs it again. */
  readonly lockMs: number;
}

const QUEUE = "housekeeping";
/** Finished jobs that are kept for people to look at. */
const KEPT_JOBS = { count: 20 };
const MAX_EVENTS_KEPT = 1_000;
/** The schedule is looked after, because a Redis that has lost its data has lost the schedule, too. */
const RESCHEDULE_MS = 10_000;
const CLOSE_TIMEOUT_MS = 2_000;

/**
 * Housekeeping of a fleet: every ingester is a worker of the same queue, each job has one schedule in Redis, and one job runs at a time in all of them
 * together. An instance that dies in a job loses it to another one; a job is never lost, because the next one is due anyway.
 */
export function createFleetHousekeeping(deps: FleetHousekeepingDeps, options: FleetHousekeepingOptions): Component {
  const { logger, metrics, jobs } = deps;
  const abort = new AbortController();
  let opened: { readonly connection: JobsConnection; readonly queue: Queue; readonly worker: Worker } | null = null;
  let timer: NodeJS.Timeout | null = null;
  let closing: Promise<void> | null = null;

  async function run(job: Job, _token: string | undefined, signal: AbortSignal | undefined): Promise<unknown> {
    const { name } = job;
    // Of a later release, which has other jobs: one of its workers takes the next.
    if (!isJobName(name)) return { skipped: "unknown job" };
    const began = performance.now();
    let outcome: "ok" | "failed" | "stopped" = "ok";
    try {
      const signals = signal === undefined ? [abort.signal] : [abort.signal, signal];
      return await jobs[name].run(AbortSignal.any(signals));
    } catch (error) {
      const isStopped = abort.signal.aborted || signal?.aborted === true;
      outcome = isStopped ? "stopped" : "failed";
      if (isStopped) return { stopped: true };
      logger.warn({ err: error, job: name }, "a housekeeping job failed; the next one tries again");
      throw error;
    } finally {
      metrics.jobs.inc({ job: name, outcome });
      metrics.jobSeconds.observe({ job: name }, (performance.now() - began) / 1_000);
    }
  }

  /** Same from every instance and however often: a schedule that is there is left as it is. */
  async function schedule(queue: Queue): Promise<void> {
    await queue.setGlobalConcurrency(1);
    for (const name of jobNames) {
      const every = jobs[name].everyMs;
      if ((await queue.getJobScheduler(name))?.every === every) continue;
      await queue.upsertJobScheduler(name, { every }, { name, opts: { removeOnComplete: KEPT_JOBS, removeOnFail: KEPT_JOBS } });
    }
  }

  function reschedule(queue: Queue): void {
    orAborted(schedule(queue), abort.signal).catch((error: unknown) => {
      if (!abort.signal.aborted) logger.warn({ err: error }, "housekeeping could not be scheduled; it is tried again");
    });
  }

  return {
    name: "housekeeping",
    start: async () => {
      const connection = deps.connect();
      const shared = { connection: connection.client, prefix: connection.prefix, skipVersionCheck: true };
      const queue = new Queue(QUEUE, { ...shared, streams: { events: { maxLen: MAX_EVENTS_KEPT } } });
      const worker = new Worker(QUEUE, run, {
        ...shared,
        name: options.instanceId,
        concurrency: 1,
        lockDuration: options.lockMs,
        stalledInterval: options.lockMs,
        // Whoever dies in a job leaves it to another one, however often that happens.
        maxStalledCount: 1_000_000,
      });
      const onError = (error: Error) => logger.debug({ err: error }, "the job queue reports an error");
      queue.on("error", onError);
      worker.on("error", onError);
      // Somebody else runs it by now.
      worker.on("lockRenewalFailed", (ids) => {
        for (const id of ids) worker.cancelJob(id, "its lock is lost");
      });
      worker.on("stalled", (id) => logger.info({ jobId: id }, "a housekeeping job is taken over from an instance that has fallen silent"));
      opened = { connection, queue, worker };
      timer = setInterval(() => reschedule(queue), RESCHEDULE_MS);
      reschedule(queue);
    },
    close: () => {
      closing ??= (async () => {
        if (timer !== null) clearInterval(timer);
        abort.abort();
        if (opened === null) return;
        const { connection, queue, worker } = opened;
        // A store that is away is not waited for: locks run out.
        const closed = Promise.all([worker.close(), queue.close()]);
        try {
          await orAborted(closed, AbortSignal.timeout(CLOSE_TIMEOUT_MS));
        } catch (error) {
          logger.debug({ err: error }, "the job queue was not closed in good order");
          closed.catch(() => {});
          worker.disconnect().catch(() => {});
        }
        connection.close();
      })();
      return closing;
    },
  };
}
