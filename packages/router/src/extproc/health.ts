import { type ServerUnaryCall, type sendUnaryData, status } from "@grpc/grpc-js";
import { externalProcessorName } from "./protos.ts";

/** Answers of `grpc.health.v1.Health`. */
const serving = 1;
const notServing = 2;

/** What gateways and kubelets ask for: readiness under the names that are in use, and liveness. */
const readinessNames = ["", "readiness", "inference-extension", externalProcessorName];
const livenessName = "liveness";

type CheckCall = ServerUnaryCall<{ readonly service?: string }, { readonly status: number }>;
type ListCall = ServerUnaryCall<object, { readonly statuses: Readonly<Record<string, { readonly status: number }>> }>;

/** Who answers a health check is alive; whether it should get requests is another matter, and never a reason to restart it. */
export function healthHandlers(isReady: () => boolean) {
  const readiness = () => ({ status: isReady() ? serving : notServing });
  return {
    Check: ({ request }: CheckCall, callback: sendUnaryData<{ readonly status: number }>): void => {
      const name = request.service ?? "";
      if (name === livenessName) callback(null, { status: serving });
      else if (readinessNames.includes(name)) callback(null, readiness());
      else callback({ code: status.NOT_FOUND, details: `no such service: ask for ${livenessName}, readiness or ${externalProcessorName}` });
    },
    List: (_call: ListCall, callback: sendUnaryData<{ readonly statuses: Record<string, { readonly status: number }> }>): void => {
      const statuses: Record<string, { readonly status: number }> = { [livenessName]: { status: serving } };
      for (const name of readinessNames) statuses[name] = readiness();
      callback(null, { statuses });
    },
  };
}
