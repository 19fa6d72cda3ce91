import { parseDocument } from "yaml";
import type { z } from "zod";
import { KvatlasError } from "../errors.ts";
import { nearestName } from "../nearest.ts";
import { readEnv } from "./env.ts";
import { allowedText, configFields, configSchemaNode, envName, nodeAt, pathText, type SchemaNode } from "./fields.ts";
import { contradictions } from "./rules.ts";
import { configSchema, type KvatlasConfig } from "./schema.ts";

export interface ConfigSources {
  /** The file: its name (for messages) and its text. Absent: defaults and environment only. */
  readonly file?: { readonly name: string; readonly text: string };
  /** `KVATLAS_<SECTION>_<FIELD>`; wins over the file. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export interface LoadedConfig {
  /** Deeply frozen. */
  readonly config: KvatlasConfig;
  /** One sentence each; nothing that keeps a service from running. */
  readonly warnings: readonly string[];
}

/** No configuration of thousands of replicas comes near. */
const maxFileChars = 4 * 1024 * 1024;

/**
 * YAML text and environment -> validated configuration.
 *
 * @throws KVATLAS_CONFIG_INVALID with every problem at once: where, what was got, what is allowed. Values that may carry a secret are not repeated.
 */
export function loadConfig(sources: ConfigSources): LoadedConfig {
  const problems: string[] = [];
  const raw = readFile(sources.file, problems);
  const root = configSchemaNode();
  dropEmptySections(raw, root);
  const env = readEnv(sources.env ?? {}, configFields(root));
  problems.push(...env.problems);
  const fromEnv = new Set<string>();
  for (const { field, value } of env.values) {
    if (setAt(raw, field.path, value)) fromEnv.add(pathText(field.path));
  }
  const parsed = configSchema.safeParse(raw);
  if (!parsed.success) problems.push(...parsed.error.issues.flatMap((issue) => describeIssue(issue, raw, root, fromEnv)));
  else problems.push(...contradictions(parsed.data));
  if (problems.length > 0 || !parsed.success) {
    const where = sources.file === undefined ? "the configuration (environment only)" : sources.file.name;
    const list = problems.map((problem) => `\n  - ${problem}`).join("");
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `${problems.length} problem${problems.length === 1 ? "" : "s"} in ${where}:${list}`);
  }
  return { config: deepFreeze(parsed.data), warnings: env.warnings };
}

type RawMap = Record<string, unknown>;

function readFile(file: ConfigSources["file"], problems: string[]): RawMap {
  if (file === undefined) return {};
  if (file.text.length > maxFileChars) {
    problems.push(`the file has ${file.text.length} characters; at most ${maxFileChars} are read.`);
    return {};
  }
  try {
    const document = parseDocument(file.text, { prettyErrors: true });
    problems.push(...document.errors.map((error) => `not valid YAML: ${error.message.replace(/:?\n[\s\S]*$/, "")}.`));
    if (document.errors.length > 0) return {};
    const value: unknown = document.toJS({ maxAliasCount: 100 });
    if (value === null || value === undefined) return {};
    if (isMap(value)) return value;
    problems.push(`got ${got(value)} at the top, expected a map of ${Object.keys(configSchema.shape).join(", ")}.`);
  } catch (error) {
    problems.push(`not valid YAML: ${error instanceof Error ? error.message : String(error)}.`);
  }
  return {};
}

function isMap(value: unknown): value is RawMap {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A section whose lines are all commented out is null in YAML; it means the defaults. */
function dropEmptySections(raw: RawMap, node: SchemaNode): void {
  for (const [name, child] of Object.entries(node.properties ?? {})) {
    const value = Object.hasOwn(raw, name) ? raw[name] : undefined;
    if (value === null && (child.type === "object" || child.type === "array")) delete raw[name];
    else if (isMap(value)) dropEmptySections(value, child);
    else if (Array.isArray(value) && child.items !== undefined)
      for (const item of value) if (isMap(item)) dropEmptySections(item, child.items);
  }
}

/** Writes into nested maps, making those that are missing; false (a problem reported by the schema) when something else is in the way. */
function setAt(root: RawMap, path: readonly string[], value: unknown): boolean {
  let map = root;
  for (const part of path.slice(0, -1)) {
    const next = Object.hasOwn(map, part) ? map[part] : undefined;
    if (next !== undefined && next !== null && !isMap(next)) return false;
    const child: RawMap = isMap(next) ? next : {};
    map[part] = child;
    map = child;
  }
  const name = path.at(-1);
  if (name === undefined) return false;
  map[name] = value;
  return true;
}

function describeIssue(issue: z.core.$ZodIssue, raw: unknown, root: SchemaNode, fromEnv: ReadonlySet<string>): readonly string[] {
  const path = issue.path;
  const where = pathText(path) || "top level";
  const node = nodeAt(root, path);
  if (issue.code === "unrecognized_keys") {
    const known = Object.keys(node?.properties ?? {});
    return issue.keys.map((key) => {
      const nearest = nearestName(key, known);
      const hint = nearest === null ? `Known keys: ${known.join(", ")}.` : `Did you mean "${nearest}"?`;
      return `${pathText([...path, key])}: unknown key. ${hint}`;
    });
  }
  const source = fromEnv.has(where) ? `${envName(path.map(String))} (${where})` : where;
  const allowed = node === null ? issue.message : allowedText(node);
  const value = valueAt(raw, path);
  if (value === undefined) return [`${source}: missing; expected ${allowed}.`];
  const quotes =
    node?.type === "string" && (typeof value === "number" || typeof value === "boolean") ? ` Write it in quotes: "${value}".` : "";
  const nearest = typeof value === "string" && node !== null ? nearestName(value, choicesOf(node)) : null;
  return [`${source}: got ${got(value)}, expected ${allowed}.${quotes}${nearest === null ? "" : ` Did you mean "${nearest}"?`}`];
}

function choicesOf(node: SchemaNode): readonly string[] {
  return [...(node.enum ?? []), ...(node.const === undefined ? [] : [node.const])]
    .map(String)
    .concat((node.anyOf ?? []).flatMap(choicesOf));
}

function valueAt(raw: unknown, path: readonly PropertyKey[]): unknown {
  let value = raw;
  for (const part of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, part)) return undefined;
    value = Reflect.get(value, part);
  }
  return value;
}

/** A value in a message: short, and without the credentials of a URL. */
function got(value: unknown): string {
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "a map";
  if (typeof value !== "string") return String(value);
  const safe = value.replace(/\/\/[^/\s]*@/g, "//***@").replace(/^[^/\s]*:[^/\s]*@/, "***@");
  return JSON.stringify(safe.length > 80 ? `${safe.slice(0, 80)}...` : safe);
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const child of Object.values(value)) deepFreeze(child);
  }
  return value;
}
