import { allowedText, configSchemaNode, envName, type SchemaNode } from "./fields.ts";

/** docs/configuration.md, from the schema. */
export function configReference(): string {
  const root = configSchemaNode();
  return [
    "<!-- Generated from packages/shared/src/config/schema.ts by `npm run docs`; do not edit. -->",
    "",
    "# Configuration",
    "",
    "One YAML file for every service, given with `--config kvatlas.yaml` or `KVATLAS_CONFIG`. Each service reads the sections it needs,",
    "so one file can be shared. Every key is optional unless it says *required*; unknown keys are refused with the nearest valid name,",
    "and all problems are reported at once (exit code 2).",
    "",
    "Each key outside of lists is also an environment variable, which wins over the file: `router.missFactor` is `KVATLAS_ROUTER_MISS_FACTOR`.",
    "`KVATLAS_POOLS` holds the whole list of pools as YAML or JSON. An empty variable counts as unset; `null` means null.",
    "`KVATLAS_*` variables that are no setting are warned about at start.",
    "",
    "```yaml",
    "redis: { url: redis://localhost:6379 }",
    "pools:",
    "  - name: qwen",
    "    model: Qwen/Qwen3-32B",
    "    endpoints:",
    "      static:",
    "        - { address: 10.0.0.5:8000, events: tcp://10.0.0.5:5557, replay: tcp://10.0.0.5:5657 }",
    "        - { address: 10.0.0.6:8000, events: tcp://10.0.0.6:5557, replay: tcp://10.0.0.6:5657 }",
    "    tokenizer: { path: /models/Qwen3-32B }",
    "```",
    "",
    "What can be learned needs no configuration: block size, hash algorithm and seed come from the replicas' events, model names and adapters",
    "from `/v1/models`. What is configured wins as a starting point; a contradiction is reported by `kvatlas doctor` and as a finding of the endpoint.",
    "",
    ...Object.entries(root.properties ?? {}).flatMap(([name, node]) => section([name], node)),
  ].join("\n");
}

function section(path: readonly string[], node: SchemaNode): string[] {
  const item = node.items;
  const lines = [`## ${path.join(".")}`, "", node.description ?? "", ""];
  if (item?.properties === undefined) return [...lines, ...table(rowsOf(path, node, true)), ""];
  return [...lines, `A list; \`${envName(path)}\` as YAML or JSON text. Each entry:`, "", ...table(rowsOf([], item, false)), ""];
}

interface Row {
  readonly key: string;
  readonly env: string | null;
  readonly node: SchemaNode;
  readonly isRequired: boolean;
}

function rowsOf(path: readonly string[], node: SchemaNode, hasEnv: boolean, prefix = ""): Row[] {
  return Object.entries(node.properties ?? {}).flatMap(([name, child]): Row[] => {
    const key = `${prefix}${name}`;
    if (child.properties !== undefined) return rowsOf([...path, name], child, hasEnv, `${key}.`);
    const row: Row = {
      key,
      env: hasEnv ? envName([...path, name]) : null,
      node: child,
      isRequired: node.required?.includes(name) === true,
    };
    return child.items?.properties === undefined ? [row] : [row, ...rowsOf([], child.items, false, `${key}[].`)];
  });
}

function table(rows: readonly Row[]): string[] {
  const hasEnv = rows.some((row) => row.env !== null);
  const cells = rows.map(({ key, env, node, isRequired }) => [
    `\`${key}\``,
    ...(hasEnv ? [env === null ? "" : `\`${env}\``] : []),
    allowedText(node),
    isRequired ? "*required*" : node.default === undefined ? "none" : `\`${JSON.stringify(node.default)}\``,
    node.description ?? "",
  ]);
  const head = ["Key", ...(hasEnv ? ["Environment"] : []), "Value", "Default", "What it does"];
  return [head, head.map(() => "---"), ...cells].map((row) => `| ${row.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`);
}
