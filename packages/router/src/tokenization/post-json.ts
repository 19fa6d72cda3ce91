import { type Dispatcher, request } from "undici";

export interface JsonAnswer {
  readonly status: number;
  /** Undefined when the answer is no JSON. */
  readonly json: unknown;
}

export type PostJson = (
  dispatcher: Dispatcher,
  url: string,
  body: string,
  options: { readonly timeoutMs: number; readonly apiKey?: string },
) => Promise<JsonAnswer>;

/** Two million token ids. */
const MAX_ANSWER_BYTES = 16 * 1024 * 1024;

/** One question with a deadline and a bound on the answer. Rejects when there is no answer. */
export const postJson: PostJson = async (dispatcher, url, body, { timeoutMs, apiKey }) => {
  const answer = await request(url, {
    dispatcher,
    method: "POST",
    headers: { "content-type": "application/json", ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }) },
    body,
    signal: AbortSignal.timeout(timeoutMs),
  });
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of answer.body) {
    const piece = chunk as Buffer;
    bytes += piece.length;
    if (bytes > MAX_ANSWER_BYTES) throw new Error(`${url} answers more than ${MAX_ANSWER_BYTES} bytes`);
    chunks.push(piece);
  }
  try {
    return { status: answer.statusCode, json: JSON.parse(Buffer.concat(chunks).toString("utf8")) as unknown };
  } catch {
    return { status: answer.statusCode, json: undefined };
  }
};
