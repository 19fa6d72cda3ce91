/** Each bench does its own set-up, runs and answers with figures; loaded only when asked for. */
const benches: Readonly<Record<string, () => Promise<{ readonly run: () => Promise<object> }>>> = {
  ingest: () => import("./ingest.ts"),
  failover: () => import("./failover.ts"),
  lookup: () => import("./lookup.ts"),
  decision: () => import("./decision.ts"),
  purge: () => import("./purge.ts"),
  hashing: () => import("./hashing.ts"),
};

const [name, ...rest] = process.argv.slice(2);
const load = name === undefined ? undefined : benches[name];
if (load === undefined || rest.length > 0) {
  console.error(
    `Usage: npm run bench -- <name>\nGot: ${process.argv.slice(2).join(" ") || "nothing"}. Names: ${Object.keys(benches).join(", ")}`,
  );
  process.exitCode = 2;
} else {
  const { run } = await load();
  console.log(JSON.stringify({ bench: name, at: new Date().toISOString(), ...(await run()) }, null, 2));
}
