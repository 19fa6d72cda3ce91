import { hash } from "node:crypto";
import type { ModelRouteConfig } from "@kvatlas/shared/config/schema";

export type Criticality = ModelRouteConfig["criticality"];

/** What a model name in a request stands for. */
export interface ResolvedModel {
  /** Model or adapter that replicas know; null when the request names none. */
  readonly target: string | null;
  readonly criticality: Criticality;
  /** As the client wrote it, when the replica is to be told another name; null when the request goes as it came. */
  readonly alias: string | null;
  /** Answers name the model as the client did. */
  readonly restoreInAnswers: boolean;
}

/** By the name in requests. */
export type ModelRoutes = ReadonlyMap<string, ModelRouteConfig>;

export function modelRoutesByName(routes: readonly ModelRouteConfig[]): ModelRoutes {
  return new Map(routes.map((route) => [route.name, route]));
}

/**
 * Follows a name to one of its targets: by weight, and always the same one for the same `key` (a session or a request id), on every router.
 */
export function resolveModel(routes: ModelRoutes, model: string | null, key: string): ResolvedModel {
  const route = model === null ? undefined : routes.get(model);
  if (route === undefined) return { target: model, criticality: "standard", alias: null, restoreInAnswers: false };
  const target = pickTarget(route, key);
  const isOther = target !== model;
  return {
    target,
    criticality: route.criticality,
    alias: isOther ? model : null,
    restoreInAnswers: isOther && route.answerAs === "client",
  };
}

/** Hex digits that fit a double exactly. */
const digits = 13;

function pickTarget(route: ModelRouteConfig, key: string): string {
  const [only] = route.targets;
  if (route.targets.length === 1 && only !== undefined) return only.model;
  const total = route.targets.reduce((sum, { weight }) => sum + weight, 0);
  const point = (Number.parseInt(hash("sha256", `${route.name}\n${key}`).slice(0, digits), 16) / 16 ** digits) * total;
  let passed = 0;
  for (const { model, weight } of route.targets) {
    passed += weight;
    if (point < passed) return model;
  }
  return route.targets.at(-1)?.model ?? route.name;
}
