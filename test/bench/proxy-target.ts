import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { createRouter } from "@kvatlas/router/app";
import { createMemoryBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { createLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { type Dispatcher, Pool } from "undici";
import { answerAfter, type Question, streamPlanOf, type TargetRole } from "./proxy-protocol.ts";

/*
 * A process of its own for what the proxy bench measures: the replica behind everything, the bare reference, or a whole router. It says its address
 * over IPC, and its CPU time and memory when asked.
 */

const [role, model, replica = ""] = process.argv.slice(2) as [TargetRole, string, string?];
const address = await start(role);
process.on("message", (question: Question) => process.send?.(question === "cpuUs" ? cpuUs() : residentBytes()));
process.on("disconnect", () => process.exit(0));
process.send?.({ address });

function cpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function residentBytes(): number {
  globalThis.gc?.();
  return process.memoryUsage.rss();
}

async function start(asked: TargetRole): Promise<string> {
  if (asked === "replica") return listen((request, response) => answerAs(request, response));
  if (asked === "bare") return startBare(replica);
  const { index, registry } = createMemoryBackend();
  const config = configSchema.parse({
    pools: [{ name: "bench", model, endpoints: { static: [{ address: replica }] }, prefixCache: { mode: "off" } }],
    router: { listen: "127.0.0.1:0", admin: "127.0.0.1:0", offPolicy: "round-robin" },
  });
  const router = createRouter(
    {
      index,
      registry,
      logger: createLogger({ service: "router" }),
      metricsRegistry: createMetricsRegistry("router"),
      createEncoder: () => null,
    },
    config,
  );
  await router.start();
  return router.address ?? "";
}

/** The least that forwarding through node:http and undici's raw handler costs: reads the body, passes bytes on, decides nothing. */
function startBare(upstream: string): Promise<string> {
  const pool = new Pool(`http://${upstream}`, { pipelining: 1, headersTimeout: 0, bodyTimeout: 0 });
  return listen((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      let resume: () => void = () => {};
      let abort: () => void = () => {};
      const handler: Dispatcher.DispatchHandler = {
        onConnect: (cancel) => {
          abort = cancel;
        },
        onHeaders: (status, headers, onward) => {
          resume = onward;
          const flat: string[] = [];
          for (let i = 0; i + 1 < headers.length; i += 2) {
            const name = headers[i]?.toString("latin1") ?? "";
            if (/^(?:connection|keep-alive|transfer-encoding)$/i.test(name)) continue;
            flat.push(name, headers[i + 1]?.toString("latin1") ?? "");
          }
          response.writeHead(status, flat);
          return true;
        },
        onData: (chunk) => response.write(chunk),
        onComplete: () => void response.end(),
        onError: () => void response.destroy(),
      };
      response.on("drain", () => resume());
      response.on("close", () => abort());
      const type = request.headers["content-type"] ?? "application/json";
      const { url, method } = request;
      pool.dispatch({ path: url ?? "/", method: method ?? "POST", headers: ["content-type", type], body: Buffer.concat(chunks) }, handler);
    });
  });
}

function listen(handler: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const server = createServer(handler);
  server.keepAliveTimeout = 600_000;
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", 4_096, () => resolve(`127.0.0.1:${(server.address() as AddressInfo).port}`));
  });
}

/**
 * What a replica does, told by the body: a small answer, or an event stream of so many chunks in such a distance. Other proxies ask for its models and its
 * health.
 */
function answerAs(request: IncomingMessage, response: ServerResponse): void {
  if (request.url === "/v1/models") {
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify({ object: "list", data: [{ id: model, object: "model" }] }));
    return;
  }
  const body: Buffer[] = [];
  request.on("data", (piece: Buffer) => body.push(piece));
  request.on("end", () => {
    const stream = streamPlanOf(Buffer.concat(body));
    if (stream === null) {
      response.writeHead(200, { "content-type": "application/json", "content-length": answerAfter.length });
      response.end(answerAfter);
      return;
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    let left = stream.chunks;
    const write = () => {
      left -= 1;
      response.write(`data: {"choices":[{"index":0,"delta":{"content":" token"}}],"t":${performance.timeOrigin + performance.now()}}\n\n`);
      if (left > 0) return;
      clearInterval(timer);
      response.end("data: [DONE]\n\n");
    };
    const timer = setInterval(write, stream.everyMs);
    write();
    response.on("close", () => clearInterval(timer));
  });
}
