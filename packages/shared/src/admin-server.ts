import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { Registry } from "prom-client";
import type { Component } from "./lifecycle.ts";
import { listenOn } from "./listen.ts";
import type { Logger } from "./logger.ts";

export interface AdminServerDeps {
  readonly registry: Registry;
  readonly logger: Logger;
  /** Why the service is not ready, one sentence each; empty when it is. Called per probe: answers from memory. */
  readonly readiness: () => readonly string[];
  /** What is missing elsewhere, one sentence each; does not make the service unready. @defaultValue `/readyz` does not speak of it */
  readonly missing?: () => readonly string[];
}

export interface AdminServerOptions {
  /** `host:port`; port 0 picks a free one. */
  readonly listen: string;
  /** Configuration key of `listen`, for messages, e.g. `router.admin`. */
  readonly setting: string;
}

export interface AdminServer extends Component {
  /** `host:port` once started, with the port that was picked; null before. */
  readonly address: string | null;
}

/**
 * What operators and Kubernetes ask a service: `/livez` (200 while the process answers), `/readyz` (200 or 503 with
 * `{ready, reasons}`, and `missing` where the service knows) and `/metrics` in Prometheus' text form.
 * `start` rejects with KVATLAS_PORT_IN_USE; `close` answers probes already received, then closes.
 */
export function createAdminServer(deps: AdminServerDeps, options: AdminServerOptions): AdminServer {
  const server = createServer((request, response) => {
    answer(deps, request, response).catch((error: unknown) => {
      deps.logger.error({ err: error, path: request.url }, "admin request failed");
      if (!response.headersSent) send(response, 500, "text/plain; charset=utf-8", "internal error\n");
      else response.destroy();
    });
  });
  server.requestTimeout = 10_000;
  let address: string | null = null;
  let closing: Promise<void> | null = null;
  return {
    name: "admin-server",
    get address() {
      return address;
    },
    start: async () => {
      address = await listenOn(server, options.listen, options.setting);
    },
    close: () => {
      closing ??= new Promise<void>((resolve) => {
        if (!server.listening) {
          resolve();
          return;
        }
        server.close(() => resolve());
        server.closeIdleConnections();
      });
      return closing;
    },
  };
}

async function answer(deps: AdminServerDeps, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const path = (request.url ?? "/").split("?", 1)[0];
  if (request.method !== "GET" && request.method !== "HEAD") {
    response.setHeader("allow", "GET, HEAD");
    send(response, 405, "text/plain; charset=utf-8", "use GET\n");
    return;
  }
  switch (path) {
    case "/livez":
      send(response, 200, "application/json", `${JSON.stringify({ live: true })}\n`);
      return;
    case "/readyz": {
      const reasons = deps.readiness();
      const body = { ready: reasons.length === 0, reasons, ...(deps.missing === undefined ? {} : { missing: deps.missing() }) };
      send(response, body.ready ? 200 : 503, "application/json", `${JSON.stringify(body)}\n`);
      return;
    }
    case "/metrics":
      send(response, 200, deps.registry.contentType, await deps.registry.metrics());
      return;
    default:
      send(response, 404, "text/plain; charset=utf-8", "not found; there are /livez, /readyz and /metrics\n");
  }
}

function send(response: ServerResponse, status: number, contentType: string, body: string): void {
  response.writeHead(status, { "content-type": contentType, "content-length": Buffer.byteLength(body), connection: "close" });
  response.end(body);
}
