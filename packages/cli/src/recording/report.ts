/** An inequality, or a line that cannot be read. */
export interface Problem {
  /** What was being checked. */
  readonly check: "line" | "frame" | "batch" | "key" | "scheme" | "hit" | "tokens" | "response";
  /** Line in the file, from 1. */
  readonly line: number;
  /** What was expected and what came. */
  readonly message: string;
}

export interface RecordingReport {
  readonly file: string;
  /** Key scheme of the events; several, comma-separated, when the engine was started with several; null when no store told. */
  readonly scheme: string | null;
  /** Tokens per block; null when no store told. */
  readonly blockSize: number | null;
  /** Distinct batches, live and replayed together. */
  readonly batches: number;
  readonly events: number;
  /** Stored block hashes that were recomputed from token ids. */
  readonly keysChecked: number;
  readonly keysEqual: number;
  /** Requests whose cache hit was predicted from the events before them. */
  readonly requestsChecked: number;
  readonly hitsEqual: number;
  /** Prompts that were tokenized and compared with the engine's own ids. */
  readonly tokensChecked: number;
  readonly tokensEqual: number;
  /** What could not be checked, by reason. */
  readonly skipped: Readonly<Record<string, number>>;
  readonly problems: readonly Problem[];
}

/** Problems kept per file; the rest is counted in one more, so that a recording of the wrong engine does not print megabytes. */
const maxProblems = 200;

/** Collects a report while a recording is checked. */
export class ReportBuilder {
  readonly #skipped = new Map<string, number>();
  readonly #problems: Problem[] = [];
  readonly #schemes = new Set<string>();
  readonly #counts = {
    batches: 0,
    events: 0,
    keysChecked: 0,
    keysEqual: 0,
    requestsChecked: 0,
    hitsEqual: 0,
    tokensChecked: 0,
    tokensEqual: 0,
  };
  #droppedProblems = 0;
  #blockSize: number | null = null;

  skip(reason: string, count = 1): void {
    if (count > 0) this.#skipped.set(reason, (this.#skipped.get(reason) ?? 0) + count);
  }

  problem(check: Problem["check"], line: number, message: string): void {
    if (this.#problems.length < maxProblems) this.#problems.push({ check, line, message });
    else this.#droppedProblems++;
  }

  add(name: "batches" | "events", count: number): void {
    this.#counts[name] += count;
  }

  /** One comparison; `problem` is asked for a sentence when it failed. */
  compare(kind: "keys" | "requests" | "tokens", isEqual: boolean, line: number, problem: () => string): void {
    const names = {
      keys: ["keysChecked", "keysEqual", "key"],
      requests: ["requestsChecked", "hitsEqual", "hit"],
      tokens: ["tokensChecked", "tokensEqual", "tokens"],
    } as const;
    const [checked, equal, check] = names[kind];
    this.#counts[checked]++;
    if (isEqual) this.#counts[equal]++;
    else this.problem(check, line, problem());
  }

  scheme(name: string, blockSize: number | null): void {
    this.#schemes.add(name);
    this.#blockSize ??= blockSize;
  }

  build(file: string): RecordingReport {
    const problems = [...this.#problems].sort((a, b) => a.line - b.line);
    if (this.#droppedProblems > 0)
      problems.push({ check: "line", line: 0, message: `${this.#droppedProblems} more problems are not listed` });
    const { batches, events, ...counts } = this.#counts;
    return {
      file,
      scheme: this.#schemes.size === 0 ? null : [...this.#schemes].join(", "),
      blockSize: this.#blockSize,
      batches,
      events,
      ...counts,
      skipped: Object.fromEntries([...this.#skipped].sort(([a], [b]) => (a < b ? -1 : 1))),
      problems,
    };
  }
}
