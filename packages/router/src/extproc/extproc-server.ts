import { Server, ServerCredentials, type ServerDuplexStream } from "@grpc/grpc-js";
import type { Clock } from "@kvatlas/shared/clock";
import type { RouterConfig } from "@kvatlas/shared/config/schema";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Component } from "@kvatlas/shared/lifecycle";
import { formatHostPort, parseHostPort } from "@kvatlas/shared/listen";
import type { Logger } from "@kvatlas/shared/logger";
import { CertificateFiles, expiryOf } from "./certificate-files.ts";
import { Exchange, type ExchangeDeps } from "./exchange.ts";
import { HealthChecks } from "./health.ts";
import type { ProcessingRequest, ProcessingResponse } from "./messages.ts";
import { loadServices } from "./protos.ts";
import { makeSelfSigned } from "./self-signed.ts";
import { ReplaceableCredentials } from "./server-credentials.ts";

export interface ExtProcServerDeps {
  readonly exchange: ExchangeDeps;
  /** Why the router should get no requests; empty when it should. */
  readonly readiness: () => readonly string[];
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * The endpoint picker: Envoy's external processing protocol and health checks, and a second port for health checks alone, without TLS, which kubelets
 * cannot do. Not started without `router.extProc.listen`.
 *
 * `close` says NOT_SERVING at once, goes on taking requests for `drainDelayMs` so that gateways have time to notice, then takes none, lets running ones
 * finish, and cuts what is left at `drainTimeoutMs` after the call.
 */
export class ExtProcServer implements Component {
  readonly name = "ext-proc";
  readonly #deps: ExtProcServerDeps;
  readonly #config: RouterConfig;
  readonly #servers: Server[] = [];
  readonly #health: HealthChecks;
  #files: CertificateFiles | null = null;
  #address: string | null = null;
  #healthAddress: string | null = null;
  #open = 0;
  #isClosing = false;
  #closing: Promise<void> | null = null;

  constructor(deps: ExtProcServerDeps, config: RouterConfig) {
    this.#deps = deps;
    this.#config = config;
    this.#health = new HealthChecks(() => !this.#isClosing && deps.readiness().length === 0);
  }

  /** `host:port` once started; null before, and when it is not configured. */
  get address(): string | null {
    return this.#address;
  }

  get healthAddress(): string | null {
    return this.#healthAddress;
  }

  get openStreams(): number {
    return this.#open;
  }

  async start(): Promise<void> {
    const { listen, health, maxMessageBytes } = this.#config.extProc;
    if (listen === null) return;
    const services = loadServices();
    const server = new Server({
      "grpc.max_receive_message_length": maxMessageBytes,
      "grpc.max_send_message_length": maxMessageBytes,
      "grpc-node.max_session_memory": Number.MAX_SAFE_INTEGER,
    });
    server.addService(services.externalProcessor, {
      Process: (call: ServerDuplexStream<ProcessingRequest, ProcessingResponse>) => this.#process(call),
    });
    server.addService(services.health, this.#health.handlers());
    this.#servers.push(server);
    this.#address = await bind(server, listen, await this.#credentials(), "router.extProc.listen");
    if (health === null) return;
    const healthServer = new Server();
    healthServer.addService(services.health, this.#health.handlers());
    this.#servers.push(healthServer);
    this.#healthAddress = await bind(healthServer, health, ServerCredentials.createInsecure(), "router.extProc.health");
  }

  close(): Promise<void> {
    this.#closing ??= this.#drain();
    return this.#closing;
  }

  async #drain(): Promise<void> {
    const { drainTimeoutMs, extProc } = this.#config;
    this.#isClosing = true;
    this.#health.changed();
    this.#files?.close();
    const [server, health] = this.#servers;
    if (server !== undefined) {
      // Nobody has to notice the end of a server that could not begin.
      const delayMs = this.#address === null ? 0 : Math.min(extProc.drainDelayMs, drainTimeoutMs / 2);
      if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
      this.#health.close();
      await shutDown(server, drainTimeoutMs - delayMs, () =>
        this.#deps.logger.warn({ openStreams: this.#open }, "gateway streams still open at the end of the drain are cut"),
      );
    }
    if (health !== undefined) await shutDown(health, healthShutdownMs, () => {});
  }

  #process(call: ServerDuplexStream<ProcessingRequest, ProcessingResponse>): void {
    this.#open += 1;
    let isOpen = true;
    const exchange = new Exchange(this.#deps.exchange, this.#config, {
      send: (response) => {
        if (!isOpen || call.writableEnded) return;
        if (call.write(response) || call.isPaused()) return;
        // A gateway that does not read is not read from.
        call.pause();
        call.once("drain", () => call.resume());
      },
      end: () => {
        if (!call.writableEnded) call.end();
      },
    });
    const gone = (): void => {
      if (!isOpen) return;
      isOpen = false;
      this.#open -= 1;
      exchange.gone();
    };
    call.on("data", (message: ProcessingRequest) => exchange.receive(message));
    call.on("end", () => exchange.halfClosed());
    call.on("cancelled", gone);
    call.on("close", gone);
    call.on("finish", gone);
    call.on("error", (error) => {
      this.#deps.logger.debug({ err: error }, "gateway stream broken");
      gone();
    });
  }

  async #credentials(): Promise<ServerCredentials> {
    const { mode, certFile, keyFile } = this.#config.extProc.tls;
    if (mode === "off") return ServerCredentials.createInsecure();
    const { extProcMetrics } = this.#deps.exchange;
    if (mode === "self-signed") {
      const pair = makeSelfSigned(this.#deps.clock.now());
      extProcMetrics.certificateInForce(mode, expiryOf(pair));
      return new ReplaceableCredentials(pair);
    }
    if (certFile === null || keyFile === null) {
      throw new KvatlasError("KVATLAS_CONFIG_INVALID", "router.extProc.tls: mode files needs certFile and keyFile.");
    }
    this.#files = new CertificateFiles({ certFile, keyFile }, this.#deps.logger);
    const pair = this.#files.read();
    extProcMetrics.certificateInForce(mode, expiryOf(pair));
    const credentials = new ReplaceableCredentials(pair);
    this.#files.watch((renewed) => {
      extProcMetrics.certificateChanged(renewed !== null);
      if (renewed === null) return;
      credentials.replace(renewed);
      extProcMetrics.certificateInForce(mode, expiryOf(renewed));
    });
    return credentials;
  }
}

/** For last words to those who watch. */
const healthShutdownMs = 1_000;

async function bind(server: Server, listen: string, credentials: ServerCredentials, setting: string): Promise<string> {
  const { host } = parseHostPort(listen);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(listen, credentials, (error, bound) => {
      if (error === null) resolve(bound);
      else reject(bindError(error, listen, setting));
    });
  });
  return formatHostPort({ host, port });
}

function bindError(error: Error, listen: string, setting: string): KvatlasError {
  const inUse = error.message.includes("EADDRINUSE");
  return new KvatlasError(
    inUse ? "KVATLAS_PORT_IN_USE" : "KVATLAS_CONFIG_INVALID",
    inUse
      ? `cannot listen on ${listen} (${setting}): the port is in use. Stop the other process or set ${setting} to another port (0 picks a free one).`
      : `cannot listen on ${listen} (${setting}): ${error.message}.`,
    { cause: error },
  );
}

async function shutDown(server: Server, timeoutMs: number, onCut: () => void): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(() => {
      onCut();
      server.forceShutdown();
      resolve();
    }, timeoutMs);
  });
  await Promise.race([new Promise<void>((resolve) => server.tryShutdown(() => resolve())), late]);
  clearTimeout(timer);
}
