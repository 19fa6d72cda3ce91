import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { Clock } from "@kvatlas/shared/clock";
import type { Component } from "@kvatlas/shared/lifecycle";
import { listenOn } from "@kvatlas/shared/listen";
import type { Logger } from "@kvatlas/shared/logger";
import type { AccessGuard } from "../access/access-guard.ts";
import type { ModelCatalogue } from "../models/model-catalogue.ts";
import { acceptableRequestId } from "../proxy/headers.ts";
import { HttpError } from "../request/openai-error.ts";
import { answerError, answerJson } from "./answer.ts";
import { answerModels } from "./models-api.ts";
import { isForwarded, isRefused } from "./paths.ts";
import type { Incoming } from "./proxy-route.ts";
import { answerEndpoints, answerRoute, type RouteApiDeps } from "./route-api.ts";

export interface RouterServerDeps {
  readonly routeApi: RouteApiDeps;
  readonly access: Pick<AccessGuard, "tenantOf">;
  readonly models: ModelCatalogue;
  readonly proxy: (incoming: Incoming) => Promise<void>;
  /** A request was refused before it was anybody's. */
  readonly onUnauthorized: () => void;
  readonly readiness: () => readonly string[];
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface RouterServerOptions {
  readonly listen: string;
  /** How long running answers may take after `close`. */
  readonly drainTimeoutMs: number;
}

/** Idle client connections outlive those of load balancers in front (60 s is common), so that it is never the router who closes under a request. */
const clientKeepAliveMs = 75_000;
/** For receiving a whole request; answers may take as long as they like. */
const requestTimeoutMs = 300_000;

/** The OpenAI-compatible server. `close` stops accepting, lets running answers finish up to the deadline, then cuts them. */
export class RouterServer implements Component {
  readonly name = "router-server";
  readonly #deps: RouterServerDeps;
  readonly #options: RouterServerOptions;
  readonly #server = createServer((request, response) => void this.#handle(request, response));
  #address: string | null = null;
  #open = 0;
  #onIdle: (() => void) | null = null;
  #closing: Promise<void> | null = null;

  constructor(deps: RouterServerDeps, options: RouterServerOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#server.keepAliveTimeout = clientKeepAliveMs;
    this.#server.requestTimeout = requestTimeoutMs;
    // Malformed HTTP: Node has answered 400 where it could; the connection is of no further use.
    this.#server.on("clientError", (_error, socket) => {
      if (socket.writable) socket.end("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
      else socket.destroy();
    });
  }

  get address(): string | null {
    return this.#address;
  }

  get openRequests(): number {
    return this.#open;
  }

  get isDraining(): boolean {
    return this.#closing !== null;
  }

  async start(): Promise<void> {
    this.#address = await listenOn(this.#server, this.#options.listen, "router.listen");
  }

  close(): Promise<void> {
    this.#closing ??= this.#drain();
    return this.#closing;
  }

  async #drain(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    if (this.#open > 0) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
        timer = setTimeout(() => {
          this.#deps.logger.warn({ openRequests: this.#open }, "answers still running at the end of the drain are cut");
          resolve();
        }, this.#options.drainTimeoutMs);
      });
      clearTimeout(timer);
    }
    this.#server.closeAllConnections();
    await closed;
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#open += 1;
    const requestId = acceptableRequestId(request.headers["x-request-id"]) ?? randomUUID();
    response.on("close", () => {
      this.#open -= 1;
      if (this.#open === 0) this.#onIdle?.();
    });
    response.on("error", (error) => this.#deps.logger.debug({ "x-request-id": requestId, err: error }, "writing to the client failed"));
    // A connection must not be used again once the server drains.
    if (this.#closing !== null) response.shouldKeepAlive = false;
    const url = request.url ?? "/";
    const query = url.indexOf("?");
    const path = query < 0 ? url : url.slice(0, query);
    try {
      await this.#route(request, response, path, requestId);
    } catch (error) {
      if (!(error instanceof HttpError)) this.#deps.logger.error({ "x-request-id": requestId, err: error }, "request failed");
      answerError(response, error instanceof HttpError ? error : new HttpError(500, "the router failed; see its log."), requestId, path);
    }
  }

  async #route(request: IncomingMessage, response: ServerResponse, path: string, requestId: string): Promise<void> {
    const { method } = request;
    if (method === "GET" && path === "/health") {
      const reasons = this.#deps.readiness();
      return answerJson(response, reasons.length === 0 ? 200 : 503, { ready: reasons.length === 0, reasons });
    }
    const tenant = this.#tenantOf(request);
    if (path === "/kvatlas/v1/route") {
      only(method, "POST");
      return answerRoute(this.#deps.routeApi, request, response, requestId);
    }
    if (path === "/kvatlas/v1/endpoints") {
      only(method, "GET");
      return answerEndpoints(this.#deps.routeApi, response);
    }
    if (method === "GET" && (path === "/v1/models" || path.startsWith("/v1/models/"))) {
      return answerModels(response, path, await this.#deps.models.list());
    }
    if (isRefused(path)) throw new HttpError(403, "adapters are loaded and unloaded at each replica, not through the router.");
    if (!isForwarded(path)) {
      throw new HttpError(
        404,
        `there is no ${method ?? "GET"} ${path.slice(0, 200)} here: use the OpenAI API under /v1, or /kvatlas/v1/route.`,
      );
    }
    return this.#deps.proxy({ request, response, path, requestId, tenant });
  }

  #tenantOf(request: IncomingMessage): string | null {
    try {
      return this.#deps.access.tenantOf(request.headers);
    } catch (error) {
      this.#deps.onUnauthorized();
      throw error;
    }
  }
}

function only(method: string | undefined, allowed: "GET" | "POST"): void {
  if (method !== allowed) throw new HttpError(405, `${method ?? "this method"} is not allowed here: use ${allowed}.`);
}
