import { type Logger, pino } from "pino";

export type { Logger } from "pino";

export interface LoggerOptions {
  /** Service name, on every line. */
  readonly service: string;
  /** @defaultValue "info" */
  readonly level?: "silent" | "error" | "warn" | "info" | "debug" | "trace";
  /** Where lines go. @defaultValue stdout; commands that print results on stdout pass 2 */
  readonly fileDescriptor?: 1 | 2;
  /** Instead of a file descriptor: gets every line, for embedding. */
  readonly destination?: { write(line: string): void };
}

/**
 * Lines are collected up to so many bytes or so long before they are written: a write for each line would cost a busy router more than the line
 * itself. At the end of the process what is left is written.
 */
const collectedBytes = 8_192;
const flushIntervalMs = 50;

/** JSON lines. Prompts, tokens, credentials and request headers are never logged; what may carry a secret is censored by name. */
export function createLogger(options: LoggerOptions): Logger {
  return pino(
    {
      level: options.level ?? "info",
      base: { service: options.service },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }), log: censored },
    },
    options.destination ?? collecting(options.fileDescriptor ?? 1),
  );
}

function collecting(fileDescriptor: 1 | 2): ReturnType<typeof pino.destination> {
  const destination = pino.destination({ dest: fileDescriptor, sync: false, minLength: collectedBytes });
  setInterval(() => destination.flush(), flushIntervalMs).unref();
  return destination;
}

const secretNames = new Set(["authorization", "password"]);
const censor = "[redacted]";

/** Fields with such a name, at the top and one level below, are not shown. Costs a look at each name where there is none. */
function censored(fields: Record<string, unknown>): Record<string, unknown> {
  let result = fields;
  for (const name in fields) {
    const value = fields[name];
    if (secretNames.has(name)) result = { ...result, [name]: censor };
    else if (hasSecret(value)) result = { ...result, [name]: withoutSecrets(value) };
  }
  return result;
}

function hasSecret(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  for (const name in value) if (secretNames.has(name)) return true;
  return false;
}

function withoutSecrets(value: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, secretNames.has(name) ? censor : field]));
}

/** For tests and embedding: says nothing. */
export const silentLogger: Logger = pino({ level: "silent" });
