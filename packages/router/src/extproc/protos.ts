import { fileURLToPath } from "node:url";
import type { MethodDefinition, ServiceDefinition, UntypedServiceImplementation } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import type { ProcessingRequest, ProcessingResponse } from "./messages.ts";

export interface ExternalProcessorService extends ServiceDefinition<UntypedServiceImplementation> {
  readonly Process: MethodDefinition<ProcessingRequest, ProcessingResponse>;
}

export interface HealthService extends ServiceDefinition<UntypedServiceImplementation> {
  readonly Check: MethodDefinition<{ readonly service?: string }, { readonly status: number }>;
  readonly Watch: MethodDefinition<{ readonly service?: string }, { readonly status: number }>;
  readonly List: MethodDefinition<object, { readonly statuses: Readonly<Record<string, { readonly status: number }>> }>;
}

export const externalProcessorName = "envoy.service.ext_proc.v3.ExternalProcessor";

/** Reads the definitions that are shipped beside the code. Fields that are not set come as undefined, enumerations as numbers, bytes as Buffers. */
export function loadServices(): { readonly externalProcessor: ExternalProcessorService; readonly health: HealthService } {
  const folder = new URL("../../proto/", import.meta.url);
  const files = ["ext-proc.proto", "health.proto"].map((name) => fileURLToPath(new URL(name, folder)));
  const definitions = loadSync(files, { longs: Number, oneofs: true });
  return {
    externalProcessor: definitions[externalProcessorName] as unknown as ExternalProcessorService,
    health: definitions["grpc.health.v1.Health"] as unknown as HealthService,
  };
}
