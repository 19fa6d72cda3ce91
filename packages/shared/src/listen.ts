import type { Server } from "node:http";
import { KvatlasError } from "./errors.ts";

export interface HostPort {
  /** Without the brackets of an IPv6 address. */
  readonly host: string;
  readonly port: number;
}

/**
 * Splits `host:port` or `[ipv6]:port`.
 *
 * @throws KVATLAS_CONFIG_INVALID
 */
export function parseHostPort(text: string): HostPort {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65_535) {
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `"${text}" is no address to listen on: expected host:port with a port of 0 to 65535.`);
  }
  return { host, port };
}

/** `host:port`, with brackets around IPv6. */
export function formatHostPort({ host, port }: HostPort): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/**
 * Starts a server and resolves with the address it listens on (port 0 resolved).
 *
 * @param setting - name of the configuration key, for the message
 * @throws KVATLAS_PORT_IN_USE another process listens there
 * @throws KVATLAS_CONFIG_INVALID the address is not one of this machine, or may not be used
 */
export async function listenOn(server: Server, listen: string, setting: string): Promise<string> {
  const { host, port } = parseHostPort(listen);
  await new Promise<void>((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException) => reject(listenError(error, listen, setting));
    server.once("error", onError);
    server.listen({ host, port }, () => {
      server.off("error", onError);
      resolve();
    });
  });
  const address = server.address();
  return formatHostPort({ host, port: address !== null && typeof address === "object" ? address.port : port });
}

function listenError(error: NodeJS.ErrnoException, listen: string, setting: string): KvatlasError {
  if (error.code === "EADDRINUSE") {
    return new KvatlasError(
      "KVATLAS_PORT_IN_USE",
      `cannot listen on ${listen} (${setting}): the port is in use. Stop the other process or set ${setting} to another port (0 picks a free one).`,
      { cause: error },
    );
  }
  return new KvatlasError("KVATLAS_CONFIG_INVALID", `cannot listen on ${listen} (${setting}): ${error.message}.`, { cause: error });
}
