import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface KubeObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly uid?: string;
    readonly deletionTimestamp?: string;
    readonly creationTimestamp?: string;
  };
  readonly spec?: object;
  readonly status?: object;
}

type Stored = KubeObject & { readonly metadata: { readonly uid: string; readonly namespace: string; readonly resourceVersion: string } };

interface Change {
  readonly version: number;
  readonly resource: string;
  readonly before: Stored | null;
  readonly now: Stored | null;
}

interface Watcher {
  readonly resource: string;
  readonly namespace: string;
  readonly query: URLSearchParams;
  readonly response: ServerResponse;
}

export const podsResource = "v1/pods";

/**
 * An API server that speaks list and watch as the real one does: pages, selectors, resourceVersions, a history that can be compacted (410, as an answer and as
 * an event), bookmarks, Status bodies for 401, 403, 404 and 410. What goes wrong is scripted.
 */
export class KubeApiServer {
  /** The token that is let in; null: anybody. */
  token: string | null = null;
  /** `plural`s that may not be seen. */
  readonly forbidden = new Set<string>();
  /** Objects per page, whatever is asked for. */
  pageSize = 500;
  /** Asked before every answer; true: it has answered, or will not. */
  intercept: (request: IncomingMessage, response: ServerResponse) => boolean = () => false;
  /** Requests so far: `list pods`, `watch pods from 17`. */
  readonly seen: string[] = [];
  readonly #server = createServer((request, response) => this.#answer(request, response));
  readonly #objects = new Map<string, Map<string, Stored>>();
  readonly #watchers = new Set<Watcher>();
  #history: Change[] = [];
  #version = 100;
  #compacted = 0;
  #files: string | null = null;

  /** @param resources `<group>/<version>/<plural>` that are installed, besides pods */
  constructor(resources: readonly string[] = []) {
    for (const resource of [podsResource, ...resources]) this.#objects.set(resource, new Map());
  }

  async start(): Promise<void> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
    if (this.#files !== null) await rm(this.#files, { recursive: true, force: true });
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  get watchers(): number {
    return this.#watchers.size;
  }

  /** Of the watches that run, to write to by hand. */
  responses(): readonly ServerResponse[] {
    return [...this.#watchers].map(({ response }) => response);
  }

  /** A kubeconfig for this server; with a token, the file `token` beside it is read. */
  async kubeconfig(namespace = "default"): Promise<{ readonly path: string; writeToken(token: string): Promise<void> }> {
    this.#files ??= await mkdtemp(join(tmpdir(), "kvatlas-kube-"));
    const path = join(this.#files, "config");
    const tokenFile = join(this.#files, "token");
    const config = {
      "current-context": "test",
      clusters: [{ name: "test", cluster: { server: this.url, "insecure-skip-tls-verify": true } }],
      users: [{ name: "test", user: { "auth-provider": { name: "tokenFile", config: { tokenFile } } } }],
      contexts: [{ name: "test", context: { cluster: "test", user: "test", namespace } }],
    };
    await writeFile(tokenFile, `${this.token ?? "none"}\n`);
    await writeFile(path, JSON.stringify(config));
    return { path, writeToken: (token) => writeFile(tokenFile, `${token}\n`) };
  }

  install(resource: string): void {
    if (!this.#objects.has(resource)) this.#objects.set(resource, new Map());
  }

  /** Nobody knows the kind, nor its objects, until it is installed again. */
  uninstall(resource: string): void {
    this.#objects.delete(resource);
  }

  /** Creates or replaces an object. */
  put(resource: string, object: KubeObject): void {
    const objects = this.#objects.get(resource);
    if (objects === undefined) throw new Error(`${resource} is not installed`);
    const { name, namespace = "default", uid } = object.metadata;
    const key = `${namespace}/${name}`;
    const before = objects.get(key) ?? null;
    this.#version += 1;
    const now: Stored = {
      ...object,
      metadata: {
        creationTimestamp: "2026-01-01T00:00:00Z",
        ...object.metadata,
        namespace,
        uid: uid ?? before?.metadata.uid ?? `uid-${this.#version}`,
        resourceVersion: String(this.#version),
      },
    };
    objects.set(key, now);
    this.#changed({ version: this.#version, resource, before, now });
  }

  remove(resource: string, name: string, namespace = "default"): void {
    const objects = this.#objects.get(resource);
    const before = objects?.get(`${namespace}/${name}`);
    if (objects === undefined || before === undefined) throw new Error(`there is no ${resource} ${namespace}/${name}`);
    objects.delete(`${namespace}/${name}`);
    this.#version += 1;
    const last = { ...before, metadata: { ...before.metadata, resourceVersion: String(this.#version) } };
    this.#changed({ version: this.#version, resource, before: last, now: null });
  }

  /** Nobody can go on from before here any more. */
  compact(): void {
    this.#compacted = this.#version;
    this.#history = [];
  }

  bookmark(): void {
    this.#version += 1;
    for (const { response } of this.#watchers) send(response, "BOOKMARK", { metadata: { resourceVersion: String(this.#version) } });
  }

  /** All watches end: in good order, in the middle of a line, or by an event that says why. */
  endWatches(how: "orderly" | "mid-line" | "gone" | "internal-error"): void {
    for (const watcher of [...this.#watchers]) {
      const { response } = watcher;
      this.#watchers.delete(watcher);
      if (how === "mid-line") {
        response.write('{"type":"ADDED","object":{"metadata":{"na');
        response.socket?.destroy();
        continue;
      }
      if (how === "gone") send(response, "ERROR", status(410, "Expired", "too old resource version"));
      if (how === "internal-error") send(response, "ERROR", status(500, "InternalError", "etcd is not well"));
      response.end();
    }
  }

  #changed(change: Change): void {
    this.#history.push(change);
    for (const watcher of this.#watchers) if (watcher.resource === change.resource) tell(watcher, change);
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? "/", "http://server");
    const match = /^\/(?:api|apis)\/(.+)\/namespaces\/([^/]+)\/([^/]+)$/.exec(url.pathname);
    const resource = `${match?.[1]}/${match?.[3]}`;
    const plural = match?.[3] ?? url.pathname;
    const isWatch = url.searchParams.get("watch") === "1";
    const from = url.searchParams.get("resourceVersion");
    this.seen.push(isWatch ? `watch ${plural} from ${from}` : `list ${plural}`);
    if (this.intercept(request, response)) return;
    if (this.token !== null && request.headers.authorization !== `Bearer ${this.token}`)
      return void refuse(response, 401, "Unauthorized", "Unauthorized");
    const namespace = decodeURIComponent(match?.[2] ?? "");
    if (this.forbidden.has(plural)) {
      const verb = isWatch ? "watch" : "list";
      const who = `User "system:serviceaccount:${namespace}:kvatlas"`;
      const message = `${plural} is forbidden: ${who} cannot ${verb} resource "${plural}" in API group "" in the namespace "${namespace}"`;
      return void refuse(response, 403, "Forbidden", message);
    }
    const objects = this.#objects.get(resource);
    if (objects === undefined) return void refuse(response, 404, "NotFound", "the server could not find the requested resource");
    if (isWatch) this.#watch({ resource, namespace, query: url.searchParams, response }, Number(from));
    else
      this.#list(
        [...objects.values()].filter((object) => matches(object, namespace, url.searchParams)),
        url.searchParams,
        response,
      );
  }

  #list(objects: readonly Stored[], query: URLSearchParams, response: ServerResponse): void {
    const offset = Number(query.get("continue") ?? 0);
    const size = Math.min(this.pageSize, Number(query.get("limit") ?? this.pageSize));
    const more = offset + size < objects.length ? { continue: String(offset + size) } : {};
    const items = objects.slice(offset, offset + size);
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ kind: "List", metadata: { resourceVersion: String(this.#version), ...more }, items }));
  }

  #watch(watcher: Watcher, from: number): void {
    if (from < this.#compacted)
      return void refuse(watcher.response, 410, "Expired", `too old resource version: ${from} (${this.#compacted})`);
    watcher.response.writeHead(200, { "content-type": "application/json" });
    watcher.response.flushHeaders();
    for (const change of this.#history) if (change.resource === watcher.resource && change.version > from) tell(watcher, change);
    this.#watchers.add(watcher);
    watcher.response.on("close", () => this.#watchers.delete(watcher));
  }
}

/** As the real server: an object that comes to match is added, one that no longer does is deleted. */
function tell({ namespace, query, response }: Watcher, { before, now }: Change): void {
  const was = before !== null && matches(before, namespace, query);
  const is = now !== null && matches(now, namespace, query);
  if (is) send(response, was ? "MODIFIED" : "ADDED", now);
  else if (was)
    send(response, "DELETED", { ...before, metadata: { ...before.metadata, resourceVersion: (now ?? before).metadata.resourceVersion } });
}

function send(response: ServerResponse, type: string, object: object): void {
  response.write(`${JSON.stringify({ type, object })}\n`);
}

function matches({ metadata }: Stored, namespace: string, query: URLSearchParams): boolean {
  const field = /^metadata\.name=(.+)$/.exec(query.get("fieldSelector") ?? "")?.[1];
  const labels = (query.get("labelSelector") ?? "").split(",").filter((term) => term !== "");
  return (
    metadata.namespace === namespace &&
    (field === undefined || metadata.name === field) &&
    labels.every((term) => metadata.labels?.[term.split("=")[0] ?? ""] === term.split("=")[1])
  );
}

function status(code: number, reason: string, message: string): object {
  return { kind: "Status", apiVersion: "v1", status: "Failure", code, reason, message };
}

function refuse(response: ServerResponse, code: number, reason: string, message: string): void {
  response.writeHead(code, { "content-type": "application/json" });
  response.end(JSON.stringify(status(code, reason, message)));
}

/** A pod as its node reports it. */
export function pod(
  name: string,
  ip: string | null,
  more: Partial<KubeObject["metadata"]> & { readonly ready?: boolean } = {},
): KubeObject {
  const { ready = true, ...metadata } = more;
  return {
    metadata: { name, labels: { app: "vllm" }, ...metadata },
    status: {
      phase: "Running",
      ...(ip === null ? {} : { podIP: ip }),
      conditions: [{ type: "Ready", status: ready ? "True" : "False" }],
    },
  };
}

export const poolResource = "inference.networking.k8s.io/v1/inferencepools";

export function inferencePool(
  name: string,
  ports: readonly number[],
  more: Partial<KubeObject["metadata"]> = {},
  app = "vllm",
): KubeObject {
  return {
    metadata: { name, ...more },
    spec: {
      selector: { matchLabels: { app } },
      targetPorts: ports.map((number) => ({ number })),
      endpointPickerRef: { name: "epp", port: { number: 9002 } },
    },
  };
}
