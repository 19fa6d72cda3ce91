import type { RecordingReport } from "./report.ts";

/** Problems printed per file; the JSON has them all. */
const maxPrinted = 20;

/** A report for people: one line of counts, then what was not checked and what differs. */
export function reportText(report: RecordingReport): string {
  const { file, scheme, blockSize, batches, events, problems, skipped } = report;
  const pair = (name: string, equal: number, checked: number): string => `${name} ${equal}/${checked}`;
  const lines = [
    `${problems.length === 0 ? "ok  " : "DIFF"} ${file}`,
    `     ${scheme ?? "scheme unknown"}, block size ${blockSize ?? "unknown"}, ${batches} batches, ${events} events`,
    `     ${[
      pair("keys equal", report.keysEqual, report.keysChecked),
      pair("hits equal", report.hitsEqual, report.requestsChecked),
      pair("tokens equal", report.tokensEqual, report.tokensChecked),
    ].join(", ")}`,
  ];
  for (const [reason, count] of Object.entries(skipped)) lines.push(`     not checked: ${count} x ${reason}`);
  for (const { check, line, message } of problems.slice(0, maxPrinted)) lines.push(`     ${check}, line ${line}: ${message}`);
  if (problems.length > maxPrinted) lines.push(`     ... and ${problems.length - maxPrinted} more (--json prints them all)`);
  return `${lines.join("\n")}\n`;
}
