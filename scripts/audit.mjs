#!/usr/bin/env node
/*
 * `node scripts/audit.mjs`: known vulnerabilities of what runs in production. Exit code 1 when one of high or critical severity is known,
 * 0 otherwise, also when the registry does not answer such questions: that it said nothing is said.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const { stdout } = spawnSync("npx", ["--yes", "--loglevel=error", "pnpm@10.34.8", "audit", "--prod", "--json"], {
  cwd: root,
  encoding: "utf8",
  timeout: 120_000,
  env: { ...process.env, CI: "true" },
});

let report = null;
try {
  report = JSON.parse(stdout);
} catch {
  // No answer that can be read is no answer.
}
const found = report?.metadata?.vulnerabilities;
if (found === undefined) {
  process.stderr.write(`audit: no answer (${report?.error?.message ?? "nothing to read"}); nothing is known either way\n`);
} else {
  const advisories = Object.values(report.advisories ?? {});
  for (const { severity, module_name: name, title, url } of advisories)
    process.stderr.write(`audit: ${severity}: ${name}: ${title} ${url}\n`);
  const counts = ["critical", "high", "moderate", "low"].map((severity) => `${found[severity] ?? 0} ${severity}`);
  process.stderr.write(`audit: ${counts.join(", ")}\n`);
  if ((found.critical ?? 0) + (found.high ?? 0) > 0) process.exitCode = 1;
}
