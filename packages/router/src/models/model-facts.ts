/** What an engine says of a model it serves. */
export interface ModelFacts {
  readonly id: string;
  readonly root: string | null;
  readonly ownedBy: string | null;
  readonly created: number | null;
  readonly maxModelLen: number | null;
}

/** More models than an engine has. */
const maxModels = 1_000;

/** Reads an engine's answer to `GET /v1/models` (vLLM 0.33: id, root, parent, max_model_len); what is not as expected is left out. */
export function readModelFacts(text: string): readonly ModelFacts[] {
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch {
    return [];
  }
  if (!isObject(answer) || !Array.isArray(answer.data)) return [];
  return answer.data.slice(0, maxModels).flatMap((model: unknown): readonly ModelFacts[] => {
    if (!isObject(model) || typeof model.id !== "string") return [];
    return [
      {
        id: model.id,
        root: textOf(model.root),
        ownedBy: textOf(model.owned_by),
        created: countOf(model.created),
        maxModelLen: countOf(model.max_model_len),
      },
    ];
  });
}

/** Facts of all replicas in one: the shortest context, and the earliest time. */
export function mergeModelFacts(lists: readonly (readonly ModelFacts[])[]): ReadonlyMap<string, ModelFacts> {
  const merged = new Map<string, ModelFacts>();
  for (const facts of lists.flat()) {
    const known = merged.get(facts.id);
    merged.set(
      facts.id,
      known === undefined
        ? facts
        : { ...known, created: least(known.created, facts.created), maxModelLen: least(known.maxModelLen, facts.maxModelLen) },
    );
  }
  return merged;
}

function least(a: number | null, b: number | null): number | null {
  if (a === null || b === null) return a ?? b;
  return Math.min(a, b);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}

function textOf(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function countOf(value: unknown): number | null {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0 ? value : null;
}
