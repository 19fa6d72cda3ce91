import { z } from "zod";
import { configSchema } from "./schema.ts";

/** One node of the configuration's JSON Schema, as far as messages and documentation need it. */
export interface SchemaNode {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly SchemaNode[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  /** What a text must look like, in words. */
  readonly form?: string;
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly required?: readonly string[];
  readonly items?: SchemaNode;
}

/** A value that can be set: a leaf of the schema, or a list. */
export interface ConfigField {
  /** From the root; a list is one field. */
  readonly path: readonly string[];
  readonly env: string;
  readonly node: SchemaNode;
}

/** The schema as documentation and messages read it. */
export function configSchemaNode(): SchemaNode {
  return z.toJSONSchema(configSchema, { io: "input" }) as SchemaNode;
}

/** Every field that an environment variable can set. */
export function configFields(node: SchemaNode = configSchemaNode(), path: readonly string[] = []): readonly ConfigField[] {
  if (node.properties === undefined) return [{ path, env: envName(path), node }];
  return Object.entries(node.properties).flatMap(([name, child]) => configFields(child, [...path, name]));
}

/** `["router", "missFactor"]` -> `KVATLAS_ROUTER_MISS_FACTOR`. */
export function envName(path: readonly string[]): string {
  return [
    "KVATLAS",
    ...path.map((part) =>
      part
        .replaceAll("-", "_")
        .replace(/[A-Z]/g, (letter) => `_${letter}`)
        .toUpperCase(),
    ),
  ].join("_");
}

/** `["pools", 0, "name"]` -> `pools[0].name`. */
export function pathText(path: readonly PropertyKey[]): string {
  return path.map((part, i) => (typeof part === "number" ? `[${part}]` : `${i === 0 ? "" : "."}${String(part)}`)).join("");
}

/** The node that describes the value at a path; null beyond the schema. */
export function nodeAt(root: SchemaNode, path: readonly PropertyKey[]): SchemaNode | null {
  let node: SchemaNode | undefined = root;
  for (const part of path) {
    if (typeof part === "number") node = node?.items;
    else
      node =
        typeof part === "string" && node?.properties !== undefined && Object.hasOwn(node.properties, part)
          ? node.properties[part]
          : undefined;
    if (node === undefined) return null;
  }
  return node ?? null;
}

/** What a value may be, in words: `whole number from 1 to 64, or null`. */
export function allowedText(node: SchemaNode): string {
  const alternatives = alternativesOf(node);
  const last = alternatives.at(-1) ?? "anything";
  return alternatives.length < 2 ? last : `${alternatives.slice(0, -1).join(", ")} or ${last}`;
}

function alternativesOf(node: SchemaNode): readonly string[] {
  if (node.anyOf !== undefined)
    return node.anyOf.flatMap((choice) => alternativesOf({ ...choice, ...(node.form === undefined ? {} : { form: node.form }) }));
  if (node.const !== undefined) return [String(node.const)];
  if (node.enum !== undefined) return node.enum.map(String);
  if (Array.isArray(node.type)) return node.type.flatMap((type: string) => alternativesOf({ ...node, type }));
  switch (node.type) {
    case "string":
      return [node.form ?? (node.minLength === undefined ? "text" : "text that is not empty")];
    case "integer":
      return [`whole number${range(node)}`];
    case "number":
      return [`number${range(node)}`];
    case "boolean":
      return ["true", "false"];
    case "array":
      return ["list"];
    case "object":
      return [`map of ${Object.keys(node.properties ?? {}).join(", ")}`];
    default:
      return [String(node.type ?? "anything")];
  }
}

function range({ minimum, maximum }: SchemaNode): string {
  const hasMaximum = maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER;
  if (minimum === undefined) return hasMaximum ? ` of at most ${maximum}` : "";
  return hasMaximum ? ` from ${minimum} to ${maximum}` : ` of at least ${minimum}`;
}
