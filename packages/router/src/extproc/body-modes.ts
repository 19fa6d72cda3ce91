import type { ProcessingRequest } from "./messages.ts";

/** How a gateway hands over bodies (`BodySendMode`). A partially buffered body is treated as a buffered one. */
export type BodyMode = "none" | "streamed" | "buffered" | "duplex";

export interface BodyModes {
  readonly request: BodyMode;
  readonly response: BodyMode;
}

const byNumber: readonly BodyMode[] = ["none", "streamed", "buffered", "buffered", "duplex"];

/**
 * The modes of one stream: what the configuration says, else what the first message says. Gateways that say nothing (Envoy before 1.35, NGINX Gateway
 * Fabric) send bodies as in full duplex.
 */
export function bodyModesOf(configured: "auto" | Exclude<BodyMode, "none">, config: ProcessingRequest["protocolConfig"]): BodyModes {
  const said = config === undefined ? null : { request: modeOf(config.requestBodyMode), response: modeOf(config.responseBodyMode) };
  if (configured === "auto") return said ?? { request: "duplex", response: "duplex" };
  return { request: configured, response: said?.response ?? configured };
}

function modeOf(number: number | undefined): BodyMode {
  return byNumber[number ?? 0] ?? "duplex";
}
