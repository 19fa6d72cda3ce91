import { KvatlasError } from "../../errors.ts";

export type HubName = "huggingface" | "modelscope";

export interface HubAccess {
  readonly hub: HubName;
  /** Base URL without a slash at its end. */
  readonly endpoint: string;
  /** `organization/model`. */
  readonly repository: string;
  /** Branch, tag or commit. */
  readonly revision: string;
  /** Sent to the hub only, never to where it redirects, and never logged. */
  readonly token: string | null;
}

/** An answer that is no file: its status decides what is said and whether it is worth another try. */
export class HubAnswerError extends Error {
  override readonly name = "HubAnswerError";
  readonly status: number;
  readonly retryAfterMs: number | null;

  constructor(status: number, retryAfter: string | null) {
    super(`the hub answered ${status}`);
    this.status = status;
    const seconds = Number(retryAfter);
    this.retryAfterMs = retryAfter !== null && Number.isFinite(seconds) ? Math.max(0, seconds * 1_000) : null;
  }
}

export interface HubAnswer {
  /** Of the hub's own answer, before it redirects elsewhere. */
  readonly first: Headers;
  readonly response: Response;
}

const MAX_REDIRECTS = 5;
/** Without a byte for this long a transfer is given up. */
const REQUEST_TIMEOUT_MS = 30_000;

/**
 * One request to the hub. Redirects are followed here: within the hub for repositories that were renamed, and once to the store that holds
 * large files, which gets no credentials.
 *
 * @throws HubAnswerError for any status but 2xx
 */
export async function askHub(
  fetchUrl: typeof fetch,
  access: HubAccess,
  url: string,
  init: { readonly method: "GET" | "HEAD"; readonly headers?: Readonly<Record<string, string>>; readonly signal?: AbortSignal },
): Promise<HubAnswer> {
  const home = new URL(access.endpoint).origin;
  let at = new URL(url);
  let first: Headers | null = null;
  for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
    const isHome = at.origin === home;
    const timeout = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    const response = await fetchUrl(at, {
      method: init.method,
      redirect: "manual",
      headers: {
        "user-agent": "kvatlas",
        // Sizes and ranges are those of the file, not of a compressed form.
        "accept-encoding": "identity",
        ...init.headers,
        ...(isHome && access.token !== null ? { authorization: `Bearer ${access.token}` } : {}),
      },
      signal: init.signal === undefined ? timeout : AbortSignal.any([timeout, init.signal]),
    });
    const location = response.headers.get("location");
    if (response.status >= 300 && response.status < 400 && location !== null) {
      await response.body?.cancel();
      const next = new URL(location, at);
      // Headers that describe the file are on the last answer of the hub itself.
      if (isHome) first = response.headers;
      if (init.method === "HEAD" && next.origin !== home) return { first: response.headers, response };
      at = next;
      continue;
    }
    if (!response.ok) {
      await response.body?.cancel();
      throw new HubAnswerError(response.status, response.headers.get("retry-after"));
    }
    return { first: isHome || first === null ? response.headers : first, response };
  }
  throw new Error(`more than ${MAX_REDIRECTS} redirects`);
}

/** What the operator can do about it. */
export function describeHubFailure(access: HubAccess, file: string, error: unknown): KvatlasError {
  const { hub, endpoint, repository, revision, token } = access;
  const what = `${file} of ${repository} (revision ${revision}) at ${endpoint}`;
  const variable = hub === "huggingface" ? "HF_TOKEN" : "MODELSCOPE_API_TOKEN";
  const page = hub === "huggingface" ? `${endpoint}/${repository}` : `${endpoint}/models/${repository}`;
  const status = error instanceof HubAnswerError ? error.status : null;
  let message: string;
  if (status === 401 || status === 403) {
    message =
      token === null
        ? `${what} needs a login (${status}): the model is gated or private, or there is none of that name. Accept its licence at ${page} and set ${variable} to a token of that account.`
        : `${what} is refused to the given token (${status}): accept the licence at ${page} with the account of ${variable}, and check that the token may read gated repositories.`;
  } else if (status === 404) {
    message = `${what} does not exist (404): check tokenizer.repository and tokenizer.revision, or give the files' directory as tokenizer.path.`;
  } else {
    message = `${what} cannot be downloaded: ${reasonOf(error)}. Is the hub reachable from here? A directory given as tokenizer.path needs no download.`;
  }
  return new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", message, { cause: error });
}

/** `fetch` hides the reason behind "fetch failed". */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message} (${error.cause.message})` : error.message;
}

/** Answers that another try may change: connection problems, 408, 429 and 5xx. */
export function isWorthRetrying(error: unknown): boolean {
  if (error instanceof HubAnswerError) return error.status === 408 || error.status === 429 || error.status >= 500;
  return !(error instanceof KvatlasError);
}
