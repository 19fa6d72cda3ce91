import { describe, expect, it } from "vitest";
import { type ModelFacts, modelsOf, readModel, readRewrite } from "./model-objects.ts";

const metadata = { name: "x", namespace: "ns", uid: "u", creationTimestamp: "2026-01-01T00:00:00Z" };
const poolRef = { name: "qwen" };
const exact = (value: string) => ({ model: { type: "Exact", value } });

describe("a rewrite", () => {
  it("is for every name that it matches, with weights", () => {
    const rules = [
      {
        matches: [exact("a"), { model: { value: "b" } }],
        targets: [
          { modelRewrite: "c", weight: 3 },
          { modelRewrite: "d", weight: 1 },
        ],
      },
    ];
    const targets = [
      { model: "c", weight: 3 },
      { model: "d", weight: 1 },
    ];
    expect(readRewrite({ metadata, spec: { poolRef, rules } })).toMatchObject({
      models: [
        { name: "a", targets, criticality: "standard" },
        { name: "b", targets, criticality: "standard" },
      ],
      problems: [],
    });
  });

  it.each([
    ["a rule for every name", { targets: [{ modelRewrite: "e" }] }, [], ["rule 0 is for every model name"]],
    [
      "another way of matching",
      { matches: [{ model: { type: "Prefix", value: "a" } }], targets: [{ modelRewrite: "e" }] },
      [],
      ['{"model":{"type":"Prefix","value":"a"}} is not supported'],
    ],
    [
      "a match that asks for more",
      { matches: [{ ...exact("a"), headers: [{ name: "x", value: "y" }] }], targets: [{ modelRewrite: "e" }] },
      [],
      ['"headers"'],
    ],
    [
      "a match without a name, beside one with",
      { matches: [{}, exact("a")], targets: [{ modelRewrite: "e" }] },
      ["a"],
      ["the match {} is not supported"],
    ],
    ["no targets", { matches: [exact("a")] }, [], ["rule 0 has no target that can be used"]],
    [
      "weights that are none",
      {
        matches: [exact("a")],
        targets: [
          { modelRewrite: "e", weight: -1 },
          { modelRewrite: "f", weight: "2" },
        ],
      },
      [],
      ['{"modelRewrite":"e","weight":-1}', '{"modelRewrite":"f","weight":"2"}', "rule 0 has no target"],
    ],
    ["nothing but weights of zero", { matches: [exact("a")], targets: [{ modelRewrite: "e", weight: 0 }] }, [], ["rule 0 has no target"]],
    [
      "a target without a name, beside one with",
      { matches: [exact("a")], targets: [{}, { modelRewrite: "f" }] },
      ["a"],
      ["the target {} needs modelRewrite"],
    ],
  ])("with %s says what is not done", (_what, rule, names, problems) => {
    const read = readRewrite({ metadata, spec: { poolRef, rules: [rule] } });
    expect(read?.models.map(({ name }) => name)).toEqual(names);
    expect(read?.problems).toEqual(problems.map((problem) => expect.stringContaining(problem)));
    for (const problem of read?.problems ?? []) expect(problem).toMatch(/^InferenceModelRewrite x: /);
  });

  it("without rules says so", () => {
    expect(readRewrite({ metadata, spec: { poolRef } })?.problems).toEqual([expect.stringContaining("no rules")]);
  });
});

describe("a model", () => {
  it("has a criticality, and is its own target", () => {
    expect(readModel({ metadata, spec: { poolRef, modelName: "m", criticality: "Critical" } })).toMatchObject({
      models: [{ name: "m", targets: [{ model: "m", weight: 1 }], criticality: "critical" }],
      problems: [],
    });
    const targetModels = [
      { name: "m-v1", weight: 50 },
      { name: "m-v2", weight: 50 },
    ];
    expect(readModel({ metadata, spec: { poolRef, modelName: "m", targetModels } })?.models[0]?.targets).toHaveLength(2);
  });

  it("says what is not done", () => {
    expect(readModel({ metadata, spec: { poolRef } })).toMatchObject({ models: [], problems: [expect.stringContaining("names no model")] });
    expect(
      readModel({ metadata, spec: { poolRef, modelName: "m", criticality: "Huge", targetModels: [{ name: "n", weight: 0 }] } }),
    ).toMatchObject({
      models: [{ name: "m", targets: [{ model: "m", weight: 1 }], criticality: "standard" }],
      problems: [expect.stringContaining("m stands for itself"), expect.stringContaining('criticality "Huge" is unknown')],
    });
  });
});

describe("what names stand for", () => {
  const named = (name: string, kind: ModelFacts["kind"], models: readonly string[]): ModelFacts => ({
    name,
    pool: "qwen",
    kind,
    createdAt: "",
    models: models.map((model) => ({ name: model, targets: [{ model: `${name}-${model}`, weight: 1 }], criticality: "standard" })),
    problems: [`${name} has one`],
  });

  it("is said by the first object, and the others are told of", () => {
    const first = named("first", "InferenceModelRewrite", ["a", "b", "a"]);
    const second = named("second", "InferenceModel", ["b", "c"]);
    const { models, problems } = modelsOf([first, second]);
    expect(models.map(({ name, from }) => `${name} ${from}`)).toEqual([
      "a InferenceModelRewrite first",
      "b InferenceModelRewrite first",
      "c InferenceModel second",
    ]);
    expect(problems).toEqual([
      "first has one",
      'InferenceModelRewrite first: "a" is said by an earlier rule of it already, which counts.',
      "second has one",
      'InferenceModel second: "b" is said by InferenceModelRewrite first already, which counts.',
    ]);
  });
});
