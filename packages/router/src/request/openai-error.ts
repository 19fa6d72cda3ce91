/** Error body of the OpenAI API, as vLLM writes it. */
export interface OpenAiError {
  readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: number };
}

/** Error types of vLLM's OpenAI server by HTTP status (vLLM 0.33, `entrypoints/openai/engine/protocol.py`); the rest are OpenAI's own. */
const types: Readonly<Record<number, string>> = {
  400: "BadRequestError",
  401: "AuthenticationError",
  403: "PermissionDeniedError",
  404: "NotFoundError",
  405: "MethodNotAllowedError",
  413: "RequestTooLargeError",
  429: "RateLimitError",
  500: "InternalServerError",
  502: "BadGatewayError",
  503: "ServiceUnavailableError",
  504: "GatewayTimeoutError",
};

export function openAiError(status: number, message: string, param: string | null = null): OpenAiError {
  return { error: { message, type: types[status] ?? "InternalServerError", param, code: status } };
}

/** Error body of Anthropic's API, in which `/v1/messages` answers. */
export interface AnthropicError {
  readonly type: "error";
  readonly error: { readonly type: string; readonly message: string };
}

/** Names of Anthropic's API by HTTP status. */
const anthropicTypes: Readonly<Record<number, string>> = {
  400: "invalid_request_error",
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  413: "request_too_large",
  429: "rate_limit_error",
  503: "overloaded_error",
  504: "timeout_error",
};

export function anthropicError(status: number, message: string): AnthropicError {
  return { type: "error", error: { type: anthropicTypes[status] ?? "api_error", message } };
}

/** A request that is answered by the router itself, with an error. */
export class HttpError extends Error {
  override readonly name = "HttpError";
  readonly status: number;
  readonly param: string | null;
  /** Seconds after which the same request may succeed; sent as `retry-after`. */
  readonly retryAfterSeconds: number | null;

  constructor(status: number, message: string, options: { readonly param?: string; readonly retryAfterSeconds?: number } = {}) {
    super(message);
    this.status = status;
    this.param = options.param ?? null;
    this.retryAfterSeconds = options.retryAfterSeconds ?? null;
  }
}
