import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { configFields, configSchemaNode, type SchemaNode } from "./fields.ts";
import { configReference } from "./reference.ts";

function leaves(node: SchemaNode): readonly SchemaNode[] {
  const children = [...Object.values(node.properties ?? {}), ...(node.items === undefined ? [] : [node.items])];
  return children.length === 0 ? [node] : children.flatMap(leaves);
}

describe("configReference", () => {
  it("is what docs/configuration.md says (run `npm run docs` after a change of the schema)", () => {
    expect(readFileSync(new URL("../../../../docs/configuration.md", import.meta.url), "utf8")).toBe(configReference());
  });

  it("has a description of every setting", () => {
    expect(leaves(configSchemaNode()).filter((node) => node.description === undefined)).toEqual([]);
  });

  it("names every environment variable once", () => {
    const names = configFields().map((field) => field.env);
    expect(new Set(names).size).toBe(names.length);
    expect(names).toContain("KVATLAS_ROUTER_MEDIUM_WEIGHTS_GPU");
  });
});
