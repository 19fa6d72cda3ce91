#!/usr/bin/env node
import { commands } from "./commands.ts";
import { dispatch } from "./dispatch.ts";

/* The one file that touches process.*: arguments, environment, signals, streams, exit code. */

const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM"] as const) {
  process.on(name, () => {
    // The second signal is from somebody who does not want to wait for the drain.
    if (stop.signal.aborted) process.exit(name === "SIGINT" ? 130 : 143);
    stop.abort(name);
  });
}
// A closed reader (`kvatlas inspect | head`) is no failure of ours.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

const code = await dispatch(commands, process.argv.slice(2), {
  env: process.env,
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  signal: stop.signal,
});
// Flush what is still in the pipe, then leave whatever handles a command has left open.
process.stdout.write("", () => process.stderr.write("", () => process.exit(code)));
