import { PassThrough, Readable } from "node:stream";
import { runCommand } from "@kvatlas/cli/dispatch";

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one command of `kvatlas` in this process, as `main.ts` does, and collects what it printed. */
export async function runInProcess(
  command: Parameters<typeof runCommand>[0],
  argv: readonly string[],
  options: { readonly signal?: AbortSignal; readonly stdin?: string } = {},
): Promise<CommandResult> {
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const texts = Promise.all([stdout.toArray(), stderr.toArray()]);
  const code = await runCommand(command, argv, {
    env: {},
    stdin: Readable.from(options.stdin === undefined ? [] : [options.stdin]),
    stdout,
    stderr,
    signal: options.signal ?? new AbortController().signal,
  });
  stdout.end();
  stderr.end();
  const [out, err] = await texts;
  return { code, stdout: Buffer.concat(out).toString("utf8"), stderr: Buffer.concat(err).toString("utf8") };
}
