import { parse } from "yaml";
import { nearestName } from "../nearest.ts";
import type { ConfigField, SchemaNode } from "./fields.ts";

export interface EnvOverrides {
  /** Values by path, converted as far as the text allows; validation is the schema's. */
  readonly values: readonly { readonly field: ConfigField; readonly value: unknown }[];
  /** One sentence per variable that looks like ours and is none. */
  readonly warnings: readonly string[];
  /** One sentence per variable whose text cannot be read at all. */
  readonly problems: readonly string[];
}

/** Variables that belong to the project and configure no service. `KVATLAS_CONFIG` names the configuration file. */
const otherVariables = /^KVATLAS_(CONFIG$|ENVOY$|TEST_)/;

/** What Kubernetes injects for Services whose name begins with kvatlas: `KVATLAS_ROUTER_SERVICE_HOST`, `KVATLAS_PORT_8080_TCP_ADDR`, `KVATLAS_PORT=tcp://...`. */
function isServiceLink(name: string, value: string): boolean {
  return (
    /_SERVICE_(HOST|PORT)(_|$)/.test(name) ||
    /_PORT_\d+_(TCP|UDP|SCTP)(_|$)/.test(name) ||
    (name.endsWith("_PORT") && /^(tcp|udp|sctp):\/\//.test(value))
  );
}

/** Picks the configuration out of the environment. An empty variable counts as unset. */
export function readEnv(env: Readonly<Record<string, string | undefined>>, fields: readonly ConfigField[]): EnvOverrides {
  const byName = new Map(fields.map((field) => [field.env, field]));
  const values: { field: ConfigField; value: unknown }[] = [];
  const warnings: string[] = [];
  const problems: string[] = [];
  for (const [name, text] of Object.entries(env)) {
    if (!name.startsWith("KVATLAS_") || text === undefined || text === "") continue;
    const field = byName.get(name);
    if (field === undefined) {
      if (otherVariables.test(name) || isServiceLink(name, text)) continue;
      const nearest = nearestName(name, byName.keys());
      warnings.push(`environment variable ${name} is not a setting and is ignored.${nearest === null ? "" : ` Did you mean ${nearest}?`}`);
      continue;
    }
    try {
      values.push({ field, value: readText(text, field.node) });
    } catch (error) {
      problems.push(`${name}: not valid YAML or JSON: ${error instanceof Error ? (error.message.split("\n", 1)[0] ?? "") : "unreadable"}`);
    }
  }
  return { values, warnings, problems };
}

/** Text stays text where the field takes text; elsewhere it is YAML, so `5`, `true`, `null` and `[...]` mean what they look like. */
function readText(text: string, node: SchemaNode): unknown {
  const nullable = acceptsType(node, "null");
  if (acceptsType(node, "string")) return nullable && text === "null" ? null : text;
  return parse(text, { maxAliasCount: 100 });
}

function acceptsType(node: SchemaNode, type: string): boolean {
  return (
    node.type === type ||
    (Array.isArray(node.type) && node.type.includes(type)) ||
    (node.anyOf?.some((choice) => acceptsType(choice, type)) ?? false)
  );
}
