/** Jobs of housekeeping, by the name under which they are scheduled. They carry no data: what there is to do is in Redis. */
export const jobNames = ["purge", "forget-departed", "audit"] as const;
export type JobName = (typeof jobNames)[number];

export interface HousekeepingJob {
  readonly everyMs: number;
  /**
   * May be called twice, at once or again after it was killed anywhere. What it returns is kept with the finished job, for people.
   * Ends soon after the signal fires, in whatever way.
   */
  readonly run: (signal: AbortSignal) => Promise<unknown>;
}

export type HousekeepingJobs = Readonly<Record<JobName, HousekeepingJob>>;

export function isJobName(name: string): name is JobName {
  return jobNames.some((known) => known === name);
}
