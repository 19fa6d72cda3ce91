import { UsageError } from "./arguments.ts";

/** Each bench does its own set-up, runs and answers with figures; loaded only when asked for. */
const benches: Readonly<
  Record<string, () => Promise<{ readonly run: (args: readonly string[]) => Promise<object>; readonly usage?: string }>>
> = {
  ingest: () => import("./ingest.ts"),
  failover: () => import("./failover.ts"),
  lookup: () => import("./lookup.ts"),
  decision: () => import("./decision.ts"),
  purge: () => import("./purge.ts"),
  proxy: () => import("./proxy.ts"),
  hashing: () => import("./hashing.ts"),
  tokenize: () => import("./tokenize.ts"),
  traces: () => import("./traces.ts"),
  ladder: () => import("./ladder.ts"),
  multiround: () => import("./multiround.ts"),
  routers: () => import("./routers.ts"),
  pressure: () => import("./pressure.ts"),
  disaggregation: () => import("./disaggregation.ts"),
  charts: () => import("./charts.ts"),
  encodings: () => import("./encodings.ts"),
};

// Children die with this process only when it exits by itself.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

const [name, ...asked] = process.argv.slice(2);
const bench = name === undefined ? undefined : await benches[name]?.();
// Figures are JSON anyway; some benches tell nothing else then.
const rest = bench?.usage?.includes("--json") === true ? asked : asked.filter((argument) => argument !== "--json");
try {
  if (name === undefined || bench === undefined) {
    throw new UsageError(`Usage: npm run bench -- <name>\nGot: ${name ?? "nothing"}. Names: ${Object.keys(benches).join(", ")}`);
  }
  if (bench.usage === undefined && rest.length > 0) throw new UsageError(`Usage: npm run bench -- ${name}\nGot: ${rest.join(" ")}.`);
  if (rest.includes("--help")) {
    console.log(bench.usage);
  } else {
    const figures = await bench.run(rest);
    console.log(JSON.stringify({ bench: name, at: new Date().toISOString(), ...figures }, null, 2));
  }
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  console.error(bench?.usage === undefined ? error.message : `${error.message}\n\n${bench.usage}`);
  process.exitCode = 2;
}
