import { EventEmitter, once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";

export interface ReceivedRequest {
  readonly method: string;
  readonly url: string;
  readonly rawHeaders: readonly string[];
  readonly headers: IncomingMessage["headers"];
  readonly body: Buffer;
}

/** A real HTTP server in the place of a replica, whose answers a test writes by hand. */
export interface HttpUpstream {
  /** `host:port` */
  readonly address: string;
  readonly requests: readonly ReceivedRequest[];
  /** Answers whose client (the router) closed the connection before they were finished. */
  readonly abandoned: number;
  /** Resolves once `test` holds; looks again whenever something happened here. */
  until(test: () => boolean): Promise<void>;
  /** Destroys every connection and stops listening. */
  kill(): Promise<void>;
}

export type UpstreamHandler = (response: ServerResponse, request: ReceivedRequest) => void | Promise<void>;

export async function startUpstream(handler: UpstreamHandler, port = 0): Promise<HttpUpstream> {
  const requests: ReceivedRequest[] = [];
  const sockets = new Set<Socket>();
  const events = new EventEmitter();
  let abandoned = 0;
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const received = {
        method: request.method ?? "",
        url: request.url ?? "",
        rawHeaders: request.rawHeaders,
        headers: request.headers,
        body: Buffer.concat(chunks),
      };
      requests.push(received);
      events.emit("change");
      void handler(response, received);
    });
    response.on("close", () => {
      if (!response.writableFinished) abandoned += 1;
      events.emit("change");
    });
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  const { port: bound } = server.address() as AddressInfo;
  return {
    address: `127.0.0.1:${bound}`,
    requests,
    get abandoned() {
      return abandoned;
    },
    until: async (test) => {
      while (!test()) await once(events, "change");
    },
    kill: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** Answers with a small JSON body. */
export function answerOk(response: ServerResponse): void {
  response.writeHead(200, { "content-type": "application/json" });
  response.end('{"ok":true}');
}
