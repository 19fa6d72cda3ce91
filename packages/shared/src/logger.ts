import { type Logger, pino } from "pino";

export type { Logger } from "pino";

export interface LoggerOptions {
  /** Service name, on every line. */
  readonly service: string;
  /** @defaultValue "info" */
  readonly level?: "silent" | "error" | "warn" | "info" | "debug" | "trace";
  /** Where lines go. @defaultValue stdout; commands that print results on stdout pass 2 */
  readonly fileDescriptor?: 1 | 2;
}

/** JSON lines. Prompts, tokens, credentials and request headers are never logged; what may carry a secret is redacted by name. */
export function createLogger(options: LoggerOptions): Logger {
  return pino(
    {
      level: options.level ?? "info",
      base: { service: options.service },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: ["*.authorization", "*.password", "password", "authorization"], censor: "[redacted]" },
    },
    pino.destination({ dest: options.fileDescriptor ?? 1, sync: false }),
  );
}

/** For tests and embedding: says nothing. */
export const silentLogger: Logger = pino({ level: "silent" });
