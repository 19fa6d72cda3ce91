import type { IncomingHttpHeaders } from "node:http";
import type { PoolRecord } from "@kvatlas/shared/registry/pool-record";
import type { Criticality } from "./model-routes.ts";

/** Request headers that name an InferenceObjective, the newer one first. */
export const objectiveHeaders = ["x-llm-d-inference-objective", "x-gateway-inference-objective"] as const;

/** By the InferenceObjective that the request names and its pool has: above 0 critical, below 0 sheddable. Null when there is none. */
export function criticalityByObjective(
  headers: IncomingHttpHeaders,
  discovered: Pick<PoolRecord, "objectives"> | undefined,
): Criticality | null {
  if (discovered === undefined || discovered.objectives.length === 0) return null;
  const named = objectiveHeaders.map((header) => headers[header]).find((value) => typeof value === "string" && value !== "");
  const objective = discovered.objectives.find(({ name }) => name === named);
  if (objective === undefined) return null;
  if (objective.priority === 0) return "standard";
  return objective.priority > 0 ? "critical" : "sheddable";
}
