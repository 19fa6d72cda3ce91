import type { PoolRecord } from "@kvatlas/shared/registry/pool-record";
import { type ForPool, readForPool } from "./inference-objects.ts";
import { integerAt, listAt, textAt, valueAt } from "./json-path.ts";

/* Readers of the objects that say what names of models in requests stand for. What cannot be done as it is written is not done, and said by name. */

type ModelEntry = PoolRecord["models"][number];
type NamedModel = Omit<ModelEntry, "from">;

export interface ModelFacts extends ForPool {
  readonly kind: "InferenceModelRewrite" | "InferenceModel";
  /** RFC 3339 */
  readonly createdAt: string;
  readonly models: readonly NamedModel[];
  /** Parts that cannot be done, a sentence each. */
  readonly problems: readonly string[];
}

const maxWeight = 1_000_000;

/** InferenceModelRewrite: names of models in requests, and what they become. */
export function readRewrite(object: unknown): ModelFacts | null {
  const about = readForPool(object);
  if (about === null) return null;
  const models: NamedModel[] = [];
  const problems: string[] = [];
  const complain = (what: string): void => void problems.push(`InferenceModelRewrite ${about.name}: ${what}`);
  const rules = listAt(object, "spec", "rules");
  if (rules.length === 0) complain("it has no rules.");
  for (const [i, rule] of rules.entries()) {
    const targets = targetsIn(listAt(rule, "targets"), "modelRewrite", (what) => complain(`rule ${i}: ${what}`));
    const matches = listAt(rule, "matches");
    if (matches.length === 0) complain(`rule ${i} is for every model name, which is not supported; name them.`);
    for (const match of matches) {
      const name = exactNameIn(match);
      if (name === null)
        complain(
          `rule ${i}: the match ${shown(match)} is not supported, only {model: {type: Exact, value: <name>}} is; it is not applied.`,
        );
      else if (targets.length > 0) models.push({ name, targets, criticality: "standard" });
    }
    if (targets.length === 0) complain(`rule ${i} has no target that can be used; it is not applied.`);
  }
  return { ...about, kind: "InferenceModelRewrite", createdAt: createdAt(object), models, problems };
}

/** InferenceModel (v1alpha1 and v1alpha2, superseded by the one above and InferenceObjective): a name, its targets, how critical it is. */
export function readModel(object: unknown): ModelFacts | null {
  const about = readForPool(object);
  if (about === null) return null;
  const problems: string[] = [];
  const complain = (what: string): void => void problems.push(`InferenceModel ${about.name}: ${what}`);
  const facts = { ...about, kind: "InferenceModel", createdAt: createdAt(object), problems } as const;
  const name = textAt(object, "spec", "modelName");
  if (name === null) {
    complain("it names no model (spec.modelName); it is not applied.");
    return { ...facts, models: [] };
  }
  const listed = listAt(object, "spec", "targetModels");
  const targets = targetsIn(listed, "name", complain);
  if (listed.length > 0 && targets.length === 0) complain(`none of its targets can be used; ${name} stands for itself.`);
  return {
    ...facts,
    models: [{ name, targets: targets.length > 0 ? targets : [{ model: name, weight: 1 }], criticality: criticalityIn(object, complain) }],
  };
}

function criticalityIn(object: unknown, complain: (what: string) => void): ModelEntry["criticality"] {
  const said = valueAt(object, "spec", "criticality");
  if (said === undefined || said === null) return "standard";
  const known = String(said).toLowerCase();
  if (known === "critical" || known === "standard" || known === "sheddable") return known;
  complain(`criticality ${shown(said)} is unknown, known are Critical, Standard and Sheddable; it counts as Standard.`);
  return "standard";
}

/** The name that a match is for; null where it asks for anything else, or more. */
function exactNameIn(match: unknown): string | null {
  if (typeof match !== "object" || match === null || Object.keys(match).some((field) => field !== "model")) return null;
  const type = valueAt(match, "model", "type");
  return type === undefined || type === "Exact" ? textAt(match, "model", "value") : null;
}

function targetsIn(listed: readonly unknown[], field: string, complain: (what: string) => void): ModelEntry["targets"] {
  const targets = listed.flatMap((target) => {
    const model = textAt(target, field);
    const weight = integerAt(target, "weight") ?? (valueAt(target, "weight") === undefined ? 1 : null);
    if (model !== null && weight !== null && weight >= 0 && weight <= maxWeight) return [{ model, weight }];
    complain(`the target ${shown(target)} needs ${field}, and a weight from 0 to ${maxWeight} or none; it is left out.`);
    return [];
  });
  return targets.some(({ weight }) => weight > 0) ? targets : [];
}

/** Of what somebody else wrote, as much as fits a sentence. */
function shown(value: unknown): string {
  return (JSON.stringify(value) ?? "nothing").slice(0, 120);
}

function createdAt(object: unknown): string {
  return textAt(object, "metadata", "creationTimestamp") ?? "";
}

/** Order of objects that say something about the same: the oldest first, then by name. */
export function byAge(a: ModelFacts, b: ModelFacts): number {
  return a.createdAt === b.createdAt ? (a.name < b.name ? -1 : 1) : a.createdAt < b.createdAt ? -1 : 1;
}

/**
 * What names stand for, of objects in the order in which they count: the first one of a name wins, and the others are said by name.
 */
export function modelsOf(objects: readonly ModelFacts[]): { readonly models: PoolRecord["models"]; readonly problems: readonly string[] } {
  const models = new Map<string, ModelEntry>();
  const problems: string[] = [];
  for (const object of objects) {
    const from = `${object.kind} ${object.name}`;
    problems.push(...object.problems);
    for (const model of object.models) {
      const earlier = models.get(model.name);
      if (earlier === undefined) models.set(model.name, { ...model, from });
      else
        problems.push(
          `${from}: ${shown(model.name)} is said by ${earlier.from === from ? "an earlier rule of it" : earlier.from} already, which counts.`,
        );
    }
  }
  return { models: [...models.values()], problems };
}
