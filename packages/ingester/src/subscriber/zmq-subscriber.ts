import type { Logger } from "@kvatlas/shared/logger";
import { Subscriber } from "zeromq";
import { type EngineFrame, parseLiveMessage } from "./frame.ts";

/** `refused`: whoever took the connection ended it, or did not speak ZeroMQ. */
export type ConnectionEvent = "up" | "down" | "dialled again" | "refused";

export interface SubscriberHandlers {
  /** Each well-formed message, in order. Called synchronously: must not block. */
  readonly onFrame: (frame: EngineFrame & { readonly topic: string }) => void;
  /** A connection to a publisher is up (again): what it published while it was down is missing. */
  readonly onConnected?: () => void;
  readonly onDisconnected?: () => void;
  /** Everything that the socket reports of its connections. */
  readonly onConnection?: (event: ConnectionEvent) => void;
  /** A message that is not topic, sequence number and payload. */
  readonly onMalformed?: () => void;
}

export interface SubscriberOptions {
  /** `connect` dials a publisher (vLLM binds `tcp://*:5557`); `bind` waits for publishers that dial (vLLM given any other address). */
  readonly mode: "connect" | "bind";
  readonly address: string;
  /** Larger messages end the connection that sent them. */
  readonly maxMessageBytes: number;
}

export interface EventSubscriber {
  /** Resolved address, with the port that was picked for `tcp://*:0`; null before `start` and in connect mode. */
  readonly boundAddress: string | null;
  /** Rejects when the address cannot be bound; a publisher that does not answer is dialled again until `close`. */
  start(): Promise<void>;
  close(): Promise<void>;
}

/** Messages that libzmq may hold per publisher while this process is busy: a step makes one, so minutes of a busy engine. */
const receiveHighWaterMark = 10_000;
const reconnectMinMs = 100;
const reconnectMaxMs = 2_000;
/** A half-open connection is silent otherwise: ping every second, dead after three without an answer. */
const heartbeatIntervalMs = 1_000;
const heartbeatTimeoutMs = 3_000;

/**
 * One SUB socket, drained as fast as messages come, whatever happens behind it: a publisher drops silently at its high-water mark, and a full
 * publisher queue blocks the engine. What to do with a frame is the receiver's affair.
 */
export function createZmqSubscriber(
  handlers: SubscriberHandlers,
  deps: { readonly logger: Logger },
  options: SubscriberOptions,
): EventSubscriber {
  const socket = new Subscriber({
    linger: 0,
    receiveHighWaterMark,
    maxMessageSize: options.maxMessageBytes,
    reconnectInterval: reconnectMinMs,
    reconnectMaxInterval: reconnectMaxMs,
    heartbeatInterval: heartbeatIntervalMs,
    heartbeatTimeout: heartbeatTimeoutMs,
    ipv6: options.address.includes("["),
  });
  let boundAddress: string | null = null;
  let draining: Promise<void> | null = null;
  let closed = false;
  /** Connections that have got through the handshake. */
  let up = 0;

  const report = (event: ConnectionEvent) => () => {
    if (closed) return;
    if (event === "up") up++;
    else if (event === "down") up--;
    handlers.onConnection?.(event);
    if (event === "up") handlers.onConnected?.();
    else if (event === "down") handlers.onDisconnected?.();
  };
  socket.events.on("handshake", report("up"));
  // Whatever takes a connection and ends it before the handshake was never up.
  socket.events.on("disconnect", () => report(up > 0 ? "down" : "refused")());
  socket.events.on("connect:retry", report("dialled again"));
  for (const kind of ["protocol", "auth", "other"] as const) socket.events.on(`handshake:error:${kind}`, report("refused"));

  async function drain(): Promise<void> {
    while (!closed) {
      try {
        const message = parseLiveMessage(await socket.receive());
        if (message === null) handlers.onMalformed?.();
        else handlers.onFrame(message);
      } catch (error) {
        if (closed || socket.closed) return;
        deps.logger.error({ err: error, address: options.address }, "a live message could not be received; going on with the next");
      }
    }
  }

  return {
    get boundAddress() {
      return boundAddress;
    },
    start: async () => {
      socket.subscribe("");
      if (options.mode === "bind") {
        await socket.bind(options.address);
        boundAddress = socket.lastEndpoint;
      } else {
        socket.connect(options.address);
      }
      draining = drain();
    },
    close: async () => {
      closed = true;
      if (!socket.closed) socket.close();
      await draining;
    },
  };
}
