import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

/** The HTTP side of an engine: answers 200 at `/health`, and elsewhere what `pages` has; an object as JSON. */
export interface FakeEngine {
  /** `host:port` */
  readonly address: string;
  readonly pages: Record<string, string | object>;
  close(): Promise<void>;
}

export async function startFakeEngine(pages: Record<string, string | object> = {}): Promise<FakeEngine> {
  const server = createServer((request, response) => {
    const page = request.url === "/health" ? "" : pages[request.url ?? ""];
    if (page === undefined) response.writeHead(404).end();
    else response.end(typeof page === "string" ? page : JSON.stringify(page));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    pages,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
