import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface HubRequestSeen {
  readonly method: string;
  readonly url: string;
  readonly range: string | null;
  readonly authorization: string | null;
}

/** A hub on this machine: the paths and headers of huggingface.co and of modelscope.cn, files in a store with an address of its own. */
export interface HubServer {
  /** Base URL of the hub. */
  readonly url: string;
  readonly files: Map<string, string>;
  readonly seen: HubRequestSeen[];
  readonly storeSeen: HubRequestSeen[];
  /** Asked before every answer of the hub or the store; true: it has answered by itself. */
  intercept: (request: IncomingMessage, response: ServerResponse) => boolean;
  close(): Promise<void>;
}

export const hubCommit = "0123456789abcdef0123456789abcdef01234567";

export async function startHub(repository: string, files: Readonly<Record<string, string>>, revision = "main"): Promise<HubServer> {
  const held = new Map(Object.entries(files));
  const seen: HubRequestSeen[] = [];
  const storeSeen: HubRequestSeen[] = [];
  let intercept: HubServer["intercept"] = () => false;

  const store = createServer((request, response) => {
    storeSeen.push(seenOf(request));
    if (intercept(request, response)) return;
    const content = held.get(decodeURIComponent((request.url ?? "").slice(1)));
    if (content === undefined) return end(response, 404);
    serve(request, response, Buffer.from(content), { etag: '"of-the-store"' });
  });
  const storeUrl = await listen(store);

  const hub = createServer((request, response) => {
    seen.push(seenOf(request));
    if (intercept(request, response)) return;
    const url = new URL(request.url ?? "", "http://hub");
    const resolve = `/${repository}/resolve/${revision}/`;
    if (url.pathname.startsWith(resolve)) {
      const name = url.pathname.slice(resolve.length);
      const content = held.get(name);
      if (content === undefined) return end(response, 404, { "x-error-code": "EntryNotFound" });
      const bytes = Buffer.from(content);
      if (name === "tokenizer.json") {
        // A large file: it lies in the store.
        const sha256 = createHash("sha256").update(bytes).digest("hex");
        const headers = { location: `${storeUrl}/${name}`, "x-linked-etag": `"${sha256}"`, "x-linked-size": String(bytes.length) };
        return end(response, 302, { ...headers, "x-repo-commit": hubCommit });
      }
      return serve(request, response, bytes, { etag: `"${gitBlobId(bytes)}"`, "x-repo-commit": hubCommit });
    }
    const api = `/api/v1/models/${repository}/repo`;
    if (url.pathname === `${api}/files` && url.searchParams.get("Revision") === revision) {
      const entries = [...held].map(([name, content]) => ({
        Path: name,
        Type: "blob",
        Size: Buffer.byteLength(content),
        Sha256: createHash("sha256").update(content).digest("hex"),
      }));
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ Code: 200, Data: { Files: entries } }));
      return;
    }
    const content = held.get(url.searchParams.get("FilePath") ?? "");
    if (url.pathname === api && content !== undefined) return serve(request, response, Buffer.from(content), {});
    end(response, 404, { "x-error-code": "RepoNotFound" });
  });
  const url = await listen(hub);
  return {
    url,
    files: held,
    seen,
    storeSeen,
    get intercept() {
      return intercept;
    },
    set intercept(value) {
      intercept = value;
    },
    close: async () => {
      await Promise.all([closed(hub), closed(store)]);
    },
  };
}

function serve(request: IncomingMessage, response: ServerResponse, bytes: Buffer, headers: Readonly<Record<string, string>>): void {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
  const part = bytes.subarray(from);
  response.writeHead(from > 0 ? 206 : 200, {
    ...headers,
    "content-length": String(part.length),
    ...(from > 0 ? { "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` } : {}),
  });
  response.end(request.method === "HEAD" ? undefined : part);
}

function gitBlobId(bytes: Buffer): string {
  return createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
}

function end(response: ServerResponse, status: number, headers: Readonly<Record<string, string>> = {}): void {
  response.writeHead(status, headers).end();
}

function seenOf(request: IncomingMessage): HubRequestSeen {
  return {
    method: request.method ?? "",
    url: request.url ?? "",
    range: request.headers.range ?? null,
    authorization: request.headers.authorization ?? null,
  };
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function closed(server: Server): Promise<void> {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
}
