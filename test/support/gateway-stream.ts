import { type ChannelCredentials, Client, type ClientDuplexStream, credentials, type ServiceError } from "@grpc/grpc-js";
import type { ProcessingRequest, ProcessingResponse } from "@kvatlas/router/extproc/messages";
import { loadServices } from "@kvatlas/router/extproc/protos";

const { externalProcessor, health } = loadServices();

/** A gateway as an endpoint picker sees it: a gRPC connection, with a stream for each request. */
export class TestGateway {
  readonly #client: Client;
  readonly #streams = new Set<GatewayStream>();

  /** @param name - that the certificate has to be for */
  constructor(address: string, channel: ChannelCredentials = credentials.createInsecure(), name?: string) {
    this.#client = new Client(address, channel, {
      "grpc.max_receive_message_length": -1,
      "grpc.max_send_message_length": -1,
      ...(name === undefined ? {} : { "grpc.ssl_target_name_override": name }),
    });
  }

  open(): GatewayStream {
    const { path, requestSerialize, responseDeserialize } = externalProcessor.Process;
    const stream = new GatewayStream(this.#client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, {}));
    this.#streams.add(stream);
    void stream.ended.then(() => this.#streams.delete(stream));
    return stream;
  }

  /** Serving status; rejects with the gRPC error. */
  check(service: string): Promise<number> {
    const { path, requestSerialize, responseDeserialize } = health.Check;
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(path, requestSerialize, responseDeserialize, { service }, (error, answer) => {
        if (error !== null) reject(error);
        else resolve(answer?.status ?? 0);
      });
    });
  }

  /** Every status that a watcher is told, in order; ends with the stream. */
  async *watch(service: string): AsyncGenerator<number, void> {
    const { path, requestSerialize, responseDeserialize } = health.Watch;
    const call = this.#client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, { service });
    try {
      for await (const { status } of call as AsyncIterable<{ readonly status: number }>) yield status;
    } finally {
      call.cancel();
    }
  }

  listHealth(): Promise<Readonly<Record<string, number>>> {
    const { path, requestSerialize, responseDeserialize } = health.List;
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(path, requestSerialize, responseDeserialize, {}, (error, answer) => {
        if (error !== null) reject(error);
        else resolve(Object.fromEntries(Object.entries(answer?.statuses ?? {}).map(([name, { status }]) => [name, status])));
      });
    });
  }

  /** Breaks off what is open. */
  close(): void {
    for (const stream of this.#streams) stream.cancel();
    this.#client.close();
  }
}

/** One request: what the gateway says, and what it is told, in order. */
export class GatewayStream {
  readonly #call: ClientDuplexStream<ProcessingRequest, ProcessingResponse>;
  readonly #received: ProcessingResponse[] = [];
  readonly #waiting: (() => void)[] = [];
  readonly ended: Promise<ServiceError | null>;
  #hasEnded = false;

  constructor(call: ClientDuplexStream<ProcessingRequest, ProcessingResponse>) {
    this.#call = call;
    call.on("data", (response: ProcessingResponse) => {
      this.#received.push(response);
      this.#wake();
    });
    this.ended = new Promise((resolve) => {
      const end = (error: ServiceError | null): void => {
        this.#hasEnded = true;
        this.#wake();
        resolve(error);
      };
      call.on("error", (error: ServiceError) => end(error));
      call.on("end", () => end(null));
    });
  }

  send(message: ProcessingRequest): this {
    this.#call.write(message);
    return this;
  }

  /** The next answer. */
  async next(): Promise<ProcessingResponse> {
    for (;;) {
      const response = this.#received.shift();
      if (response !== undefined) return response;
      if (this.#hasEnded) throw new Error(`the stream has ended: ${(await this.ended)?.message ?? "without an error"}`);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Answers that have come and were not asked for. */
  get pending(): number {
    return this.#received.length;
  }

  halfClose(): this {
    this.#call.end();
    return this;
  }

  cancel(): void {
    this.#call.cancel();
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

/** How a gateway writes headers: Envoy from 1.27 on in `rawValue`, NGINX Gateway Fabric in `value`. */
export function headerMap(headers: Readonly<Record<string, string>>, form: "raw" | "text" = "raw") {
  return {
    headers: Object.entries(headers).map(([key, value]) => (form === "raw" ? { key, rawValue: Buffer.from(value) } : { key, value })),
  };
}

/** Head of a POST to the chat or completions API. */
export function postHead(headers: Readonly<Record<string, string>> = {}, more: Partial<ProcessingRequest> = {}): ProcessingRequest {
  const all = { ":method": "POST", ":path": "/v1/completions", ":authority": "gateway", "content-type": "application/json", ...headers };
  return { requestHeaders: { headers: headerMap(all), endOfStream: false }, ...more };
}

/** Headers that an answer sets, by name. */
export function setHeadersOf(response: ProcessingResponse): Readonly<Record<string, string>> {
  const of = response.requestHeaders?.response ??
    response.requestBody?.response ??
    response.responseHeaders?.response ?? { headerMutation: undefined };
  const set = of.headerMutation?.setHeaders ?? response.immediateResponse?.headers.setHeaders ?? [];
  return Object.fromEntries(set.map(({ header }) => [header.key, header.rawValue.toString()]));
}

/** `envoy.lb` / `x-gateway-destination-endpoint`. */
export function metadataDestination(response: ProcessingResponse): string | undefined {
  return response.dynamicMetadata?.fields?.["envoy.lb"]?.structValue?.fields?.["x-gateway-destination-endpoint"]?.stringValue;
}

export const modeNumbers = { none: 0, streamed: 1, buffered: 2, duplex: 4 } as const;
