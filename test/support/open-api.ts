/** A schema of OpenAPI v3 as Kubernetes writes them, as far as it writes them. */
export interface OpenApiSchema {
  readonly $ref?: string;
  readonly type?: string;
  readonly properties?: Readonly<Record<string, OpenApiSchema>>;
  readonly additionalProperties?: OpenApiSchema | boolean;
  readonly required?: readonly string[];
  readonly items?: OpenApiSchema;
  readonly enum?: readonly unknown[];
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minProperties?: number;
  readonly allOf?: readonly OpenApiSchema[];
  readonly oneOf?: readonly OpenApiSchema[];
  readonly anyOf?: readonly OpenApiSchema[];
  readonly "x-kubernetes-preserve-unknown-fields"?: boolean;
  readonly "x-kubernetes-int-or-string"?: boolean;
}

type Schemas = Readonly<Record<string, OpenApiSchema>>;

/**
 * What a value has against a schema, a sentence each; as strict as `kubectl apply --validate=strict`: a field that the schema does not have is a problem.
 *
 * @param schemas where `#/components/schemas/<name>` is looked up
 */
export function violations(value: unknown, schema: OpenApiSchema, schemas: Schemas, path = ""): readonly string[] {
  const at = path === "" ? "(root)" : path;
  if (schema.$ref !== undefined) {
    const name = schema.$ref.slice(schema.$ref.lastIndexOf("/") + 1);
    const target = schemas[name];
    return target === undefined ? [`${at}: no schema ${name}`] : violations(value, target, schemas, path);
  }
  const problems: string[] = [];
  for (const part of schema.allOf ?? []) problems.push(...violations(value, part, schemas, path));
  for (const options of [schema.oneOf, schema.anyOf]) {
    if (options !== undefined && !options.some((option) => violations(value, option, schemas, path).length === 0))
      problems.push(`${at}: ${JSON.stringify(value)} is none of what is allowed`);
  }
  if (schema.enum !== undefined && !schema.enum.includes(value))
    problems.push(`${at}: ${JSON.stringify(value)} is not one of ${schema.enum.join(", ")}`);
  if (schema["x-kubernetes-int-or-string"] === true && typeof value !== "string" && !Number.isInteger(value))
    problems.push(`${at}: ${JSON.stringify(value)} is neither text nor a whole number`);
  switch (schema.type) {
    case "object":
      problems.push(...objectViolations(value, schema, schemas, path));
      break;
    case "array":
      problems.push(...arrayViolations(value, schema, schemas, path));
      break;
    case "string":
      if (typeof value !== "string") problems.push(`${at}: ${JSON.stringify(value)} is no text`);
      else if (schema.pattern !== undefined && !new RegExp(schema.pattern).test(value))
        problems.push(`${at}: "${value}" does not match ${schema.pattern}`);
      else if (value.length < (schema.minLength ?? 0)) problems.push(`${at}: too short`);
      break;
    case "integer":
    case "number":
      if (typeof value !== "number" || (schema.type === "integer" && !Number.isInteger(value)))
        problems.push(`${at}: ${JSON.stringify(value)} is no ${schema.type}`);
      else if (value < (schema.minimum ?? -Infinity) || value > (schema.maximum ?? Infinity))
        problems.push(`${at}: ${value} is out of range`);
      break;
    case "boolean":
      if (typeof value !== "boolean") problems.push(`${at}: ${JSON.stringify(value)} is neither true nor false`);
      break;
  }
  return problems;
}

function objectViolations(value: unknown, schema: OpenApiSchema, schemas: Schemas, path: string): readonly string[] {
  if (!isMap(value)) return [`${path}: ${JSON.stringify(value)} is no map`];
  const problems = (schema.required ?? []).filter((name) => !(name in value)).map((name) => `${path}.${name}: missing`);
  if (Object.keys(value).length < (schema.minProperties ?? 0)) problems.push(`${path}: too few entries`);
  const isOpen =
    schema["x-kubernetes-preserve-unknown-fields"] === true ||
    schema.additionalProperties === true ||
    (schema.properties === undefined && schema.additionalProperties === undefined);
  for (const [name, inner] of Object.entries(value)) {
    const known = schema.properties?.[name] ?? (typeof schema.additionalProperties === "object" ? schema.additionalProperties : undefined);
    if (known !== undefined) problems.push(...violations(inner, known, schemas, `${path}.${name}`));
    else if (!isOpen) problems.push(`${path}.${name}: unknown field`);
  }
  return problems;
}

function arrayViolations(value: unknown, schema: OpenApiSchema, schemas: Schemas, path: string): readonly string[] {
  if (!Array.isArray(value)) return [`${path}: ${JSON.stringify(value)} is no list`];
  const problems: string[] = [];
  if (value.length < (schema.minItems ?? 0) || value.length > (schema.maxItems ?? Infinity))
    problems.push(`${path}: ${value.length} entries`);
  const { items } = schema;
  if (items === undefined) return problems;
  for (const [i, item] of value.entries()) problems.push(...violations(item, items, schemas, `${path}[${i}]`));
  return problems;
}

function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
