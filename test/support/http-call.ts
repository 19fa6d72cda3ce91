import { request as httpRequest, type IncomingMessage } from "node:http";

export interface Call {
  readonly response: Promise<IncomingMessage>;
  readonly abort: () => void;
}

/** A POST over node:http, which shows chunks, raw headers and broken connections as they are. */
export function post(url: string, body: string | Buffer, headers: Readonly<Record<string, string>> = {}): Call {
  const request = httpRequest(url, { method: "POST", headers: { "content-type": "application/json", ...headers } });
  const response = new Promise<IncomingMessage>((resolve, reject) => {
    request.on("response", resolve);
    request.on("error", reject);
  });
  response.catch(() => {});
  request.end(body);
  return { response, abort: () => request.destroy() };
}

/** The whole body, or what came before the connection broke. */
export async function readAll(response: IncomingMessage): Promise<{ readonly body: Buffer; readonly broken: boolean }> {
  const chunks: Buffer[] = [];
  let broken = false;
  response.on("data", (chunk: Buffer) => chunks.push(chunk));
  response.on("error", () => {
    broken = true;
  });
  await new Promise<void>((resolve) => response.on("close", () => resolve()));
  return { body: Buffer.concat(chunks), broken: broken || !response.complete };
}
