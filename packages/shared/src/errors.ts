/** Every error code of the system. `retryable`: the same call may succeed later without a change by the caller. */
export const errorTable = {
  KVATLAS_CONFIG_INVALID: { retryable: false },
  KVATLAS_CLI_USAGE: { retryable: false },
  KVATLAS_REDIS_UNAVAILABLE: { retryable: true },
  KVATLAS_REDIS_UNSUITABLE: { retryable: false },
  KVATLAS_INDEX_FENCED: { retryable: false },
  KVATLAS_INDEX_BEHIND: { retryable: true },
  KVATLAS_INDEX_STALE_INCARNATION: { retryable: false },
  KVATLAS_EVENT_MALFORMED: { retryable: false },
  KVATLAS_REPLAY_FAILED: { retryable: true },
  KVATLAS_PORT_IN_USE: { retryable: false },
  KVATLAS_TOKENIZER_UNAVAILABLE: { retryable: false },
  KVATLAS_TOKENIZER_BUSY: { retryable: true },
  KVATLAS_PROMPT_INVALID: { retryable: false },
  KVATLAS_REQUEST_INVALID: { retryable: false },
  KVATLAS_DEADLINE_EXCEEDED: { retryable: true },
  KVATLAS_KUBERNETES_UNAVAILABLE: { retryable: true },
  KVATLAS_ENDPOINT_UNAVAILABLE: { retryable: true },
} as const satisfies Record<`KVATLAS_${string}_${string}`, { retryable: boolean }>;

export type ErrorCode = keyof typeof errorTable;

/** Every error thrown on purpose. Callers branch on `code` and `retryable`, never on the message. */
export class KvatlasError extends Error {
  override readonly name = "KvatlasError";
  readonly code: ErrorCode;
  readonly retryable: boolean;

  constructor(code: ErrorCode, message: string, options?: { cause: unknown }) {
    super(message, options);
    this.code = code;
    this.retryable = errorTable[code].retryable;
  }
}

/** True for a KvatlasError, with the given code when one is named. */
export function isKvatlasError(error: unknown, code?: ErrorCode): error is KvatlasError {
  return error instanceof KvatlasError && (code === undefined || error.code === code);
}
