/** What one kind of `kvatlas inspect` found: for programs, for people, and how to see the same without us. */
export interface Inspection {
  readonly json: Readonly<Record<string, unknown>>;
  /** Ends with a newline. */
  readonly text: string;
  /** Command lines that show the same. */
  readonly redisCli: readonly string[];
  /** The answer is no: exit code 1. @defaultValue false */
  readonly isWrong?: boolean;
}
