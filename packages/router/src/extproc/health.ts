import {
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { externalProcessorName } from "./protos.ts";

/** Answers of `grpc.health.v1.Health`. */
const serving = 1;
const notServing = 2;
const serviceUnknown = 3;

/** What gateways and kubelets ask for: readiness under the names that are in use, and liveness. */
const readinessNames = ["", "readiness", "inference-extension", externalProcessorName];
const livenessName = "liveness";
const maxWatchers = 256;

interface Asked {
  readonly service?: string;
}
interface Answer {
  readonly status: number;
}
type Watcher = Pick<ServerWritableStream<Asked, Answer>, "request" | "write" | "end" | "on" | "destroy">;

export interface HealthOptions {
  /** How often is looked whether watchers have to be told of something. @defaultValue 250 */
  readonly intervalMs?: number;
}

/**
 * gRPC health checks. Who answers one is alive; whether it should get requests is another matter, and never a reason to restart it.
 * Those who watch are told of the present, and of every change, until `close`.
 */
export class HealthChecks {
  readonly #isReady: () => boolean;
  readonly #intervalMs: number;
  readonly #watchers = new Map<Watcher, number>();
  #timer: NodeJS.Timeout | null = null;
  #isClosed = false;

  constructor(isReady: () => boolean, options: HealthOptions = {}) {
    this.#isReady = isReady;
    this.#intervalMs = options.intervalMs ?? 250;
  }

  handlers(): UntypedServiceImplementation {
    const handlers = {
      Check: ({ request }: ServerUnaryCall<Asked, Answer>, callback: sendUnaryData<Answer>): void => {
        const found = this.#statusOf(request.service ?? "");
        if (found !== serviceUnknown) callback(null, { status: found });
        else
          callback({ code: status.NOT_FOUND, details: `no such service: ask for ${livenessName}, readiness or ${externalProcessorName}` });
      },
      List: (_call: unknown, callback: sendUnaryData<{ readonly statuses: Readonly<Record<string, Answer>> }>): void => {
        const names = [livenessName, ...readinessNames];
        callback(null, { statuses: Object.fromEntries(names.map((name) => [name, { status: this.#statusOf(name) }])) });
      },
      Watch: (call: ServerWritableStream<Asked, Answer>): void => this.#watch(call),
    };
    return handlers as unknown as UntypedServiceImplementation;
  }

  /** Tells watchers at once what has changed. */
  changed(): void {
    for (const [watcher, told] of this.#watchers) {
      const now = this.#statusOf(watcher.request.service ?? "");
      if (now === told) continue;
      this.#watchers.set(watcher, now);
      watcher.write({ status: now });
    }
  }

  /** Ends what watchers are told. */
  close(): void {
    this.#isClosed = true;
    this.changed();
    for (const watcher of this.#watchers.keys()) watcher.end();
    this.#watchers.clear();
    this.#rest();
  }

  #watch(call: Watcher): void {
    if (this.#watchers.size >= maxWatchers) {
      call.destroy(Object.assign(new Error(`${maxWatchers} watch already`), { code: status.RESOURCE_EXHAUSTED }));
      return;
    }
    const now = this.#statusOf(call.request.service ?? "");
    call.write({ status: now });
    if (this.#isClosed) {
      call.end();
      return;
    }
    this.#watchers.set(call, now);
    const gone = (): void => {
      this.#watchers.delete(call);
      if (this.#watchers.size === 0) this.#rest();
    };
    for (const event of ["cancelled", "close", "error"]) call.on(event, gone);
    this.#timer ??= setInterval(() => this.changed(), this.#intervalMs).unref();
  }

  #rest(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #statusOf(name: string): number {
    if (name === livenessName) return serving;
    if (!readinessNames.includes(name)) return serviceUnknown;
    return this.#isReady() ? serving : notServing;
  }
}
