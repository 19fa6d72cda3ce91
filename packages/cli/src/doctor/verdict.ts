/** What one check says about one thing. */
export interface Verdict {
  /** Which check, e.g. `redis`. */
  readonly check: string;
  /** What it looked at, e.g. an endpoint; empty when there is only one. */
  readonly subject: string;
  /** `skipped` says why in its message. */
  readonly status: "ok" | "problem" | "skipped";
  /** One sentence; a problem also says what to do. */
  readonly message: string;
}

export function ok(check: string, subject: string, message: string): Verdict {
  return { check, subject, status: "ok", message };
}

export function problem(check: string, subject: string, message: string): Verdict {
  return { check, subject, status: "problem", message };
}

export function skipped(check: string, subject: string, message: string): Verdict {
  return { check, subject, status: "skipped", message };
}
