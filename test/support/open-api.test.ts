import { describe, expect, it } from "vitest";
import { type OpenApiSchema, violations } from "./open-api.ts";

const schemas: Readonly<Record<string, OpenApiSchema>> = {
  Port: {
    type: "object",
    required: ["port"],
    properties: { port: { type: "integer", minimum: 1, maximum: 65535 }, name: { type: "string" } },
  },
};
const service: OpenApiSchema = {
  type: "object",
  properties: {
    ports: { type: "array", minItems: 1, items: { allOf: [{ $ref: "#/components/schemas/Port" }] } },
    labels: { type: "object", additionalProperties: { type: "string" } },
    size: { oneOf: [{ type: "string" }, { type: "integer" }] },
    kind: { type: "string", enum: ["A", "B"] },
    free: { type: "object" },
  },
};

describe("violations", () => {
  it("has nothing against what fits", () => {
    expect(
      violations({ ports: [{ port: 1, name: "a" }], labels: { a: "b" }, size: 3, kind: "A", free: { x: [1] } }, service, schemas),
    ).toEqual([]);
  });

  it.each([
    [{ ports: [{ port: 0 }] }, ".ports[0].port: 0 is out of range"],
    [{ ports: [{ port: "1" }] }, '.ports[0].port: "1" is no integer'],
    [{ ports: [{ name: "a" }] }, ".ports[0].port: missing"],
    [{ ports: [] }, ".ports: 0 entries"],
    [{ ports: [{ port: 1, prot: "TCP" }] }, ".ports[0].prot: unknown field"],
    [{ labels: { a: 1 } }, ".labels.a: 1 is no text"],
    [{ labels: [] }, ".labels: [] is no map"],
    [{ size: true }, ".size: true is none of what is allowed"],
    [{ kind: "C" }, '.kind: "C" is not one of A, B'],
    [{ zebra: 1 }, ".zebra: unknown field"],
  ])("%j: %s", (value, problem) => {
    expect(violations(value, service, schemas)).toEqual([problem]);
  });
});
