import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parse, parseAllDocuments } from "yaml";
import { type OpenApiSchema, violations } from "./open-api.ts";

/** Any object of Kubernetes; what is in it is looked at by path. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly [field: string]: unknown;
}

interface Definition {
  readonly kind: string;
  readonly spec: {
    readonly group: string;
    readonly names: { readonly kind: string };
    readonly versions: readonly { readonly name: string; readonly schema: { readonly openAPIV3Schema: OpenApiSchema } }[];
  };
}

/** The documents of a YAML text; empty ones are left out. */
export function manifestsOf(text: string): readonly Manifest[] {
  return parseAllDocuments(text)
    .map((document): unknown => {
      if (document.errors.length > 0) throw document.errors[0];
      return document.toJS();
    })
    .filter((value): value is Manifest => value !== null);
}

/** What is at a path such as `spec.template.spec.containers.0.image`; undefined where there is nothing. */
export function at(value: unknown, path: string): unknown {
  let here = value;
  for (const step of path.split(".")) {
    if (typeof here !== "object" || here === null) return undefined;
    here = Reflect.get(here, step);
  }
  return here;
}

/** A list at a path; empty where there is none. */
export function listAt(value: unknown, path: string): readonly unknown[] {
  const found = at(value, path);
  return Array.isArray(found) ? found : [];
}

const fixtures = fileURLToPath(new URL("../fixtures/kubernetes/", import.meta.url));

/** A checker of manifests against the OpenAPI document of Kubernetes and the definitions of custom resources in test/fixtures/kubernetes. */
export function createManifestCheck(): (manifest: Manifest) => readonly string[] {
  const { kinds, schemas } = parse(readFileSync(`${fixtures}openapi-1.35.json`, "utf8")) as {
    readonly kinds: Readonly<Record<string, string>>;
    readonly schemas: Readonly<Record<string, OpenApiSchema>>;
  };
  const custom = new Map<string, OpenApiSchema>();
  for (const { spec } of parseAllDocuments(readFileSync(`${fixtures}crds.yaml`, "utf8")).map((document) => document.toJS() as Definition)) {
    for (const { name, schema } of spec.versions) custom.set(`${spec.group}/${name}/${spec.names.kind}`, schema.openAPIV3Schema);
  }
  return (manifest) => {
    const kind = `${manifest.apiVersion}/${manifest.kind}`;
    const builtIn = kinds[kind];
    const schema = builtIn === undefined ? custom.get(kind) : { $ref: builtIn };
    const where = `${manifest.kind} ${manifest.metadata.name}`;
    if (schema === undefined) return [`${where}: no schema for ${kind} in test/fixtures/kubernetes`];
    return violations(manifest, schema, schemas).map((problem) => `${where}: ${problem}`);
  };
}
