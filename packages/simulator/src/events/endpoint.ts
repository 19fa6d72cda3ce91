import { KvatlasError } from "@kvatlas/shared/errors";

/**
 * Whether vLLM's publisher binds this endpoint; all others it dials, `tcp://0.0.0.0:5557` and `tcp://127.0.0.1:5557` included
 * (vLLM 0.10 to 0.33, `ZmqEventPublisher._socket_setup`).
 */
export function bindsEndpoint(endpoint: string): boolean {
  return endpoint.includes("*") || endpoint.includes("::") || endpoint.startsWith("ipc://") || endpoint.startsWith("inproc://");
}

/**
 * The endpoint of one data-parallel rank: TCP ports count up, inproc names get a suffix, port 0 stays (`offset_endpoint_port`).
 *
 * @throws KVATLAS_CONFIG_INVALID no ZMQ endpoint, or one that cannot be shared by several ranks
 */
export function offsetEndpoint(endpoint: string, rank: number): string {
  if (endpoint.startsWith("inproc://")) return rank === 0 ? endpoint : `${endpoint}_dp${rank}`;
  if (endpoint.startsWith("ipc://")) {
    if (rank === 0) return endpoint;
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `"${endpoint}" serves one data-parallel rank only; use a tcp endpoint for several.`);
  }
  const match = /^(tcp:\/\/.+):(\d{1,5})$/.exec(endpoint);
  const port = Number(match?.[2]);
  if (match === null || port + rank > 65_535) {
    throw new KvatlasError(
      "KVATLAS_CONFIG_INVALID",
      `"${endpoint}" is no ZMQ endpoint for rank ${rank}: expected tcp://host:port, ipc://path or inproc://name.`,
    );
  }
  return port === 0 ? endpoint : `${match[1]}:${port + rank}`;
}

/** Where a client on this machine dials what was bound as `configured` and reported by the socket as `bound`. */
export function localEndpoint(configured: string, bound: string): string {
  if (!configured.startsWith("tcp://")) return configured;
  const port = bound.slice(bound.lastIndexOf(":") + 1);
  const host = configured.slice("tcp://".length, configured.lastIndexOf(":"));
  return `tcp://${host === "*" || host === "0.0.0.0" || host === "[::]" ? "127.0.0.1" : host}:${port}`;
}
