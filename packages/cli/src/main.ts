import { commands } from "./commands.ts";
import { dispatch } from "./dispatch.ts";

/* The one file that touches process.*: arguments, environment, signals, streams, exit code. */

/** npm, its shell and the terminal each pass a Ctrl-C on: signals closer together than this are one. */
const sameSignalMs = 1_000;

const stop = new AbortController();
let stoppedAt = 0;
for (const name of ["SIGINT", "SIGTERM"] as const) {
  process.on(name, () => {
    if (!stop.signal.aborted) {
      stoppedAt = performance.now();
      stop.abort(name);
    } else if (performance.now() - stoppedAt > sameSignalMs) {
      // From somebody who does not want to wait for the drain.
      process.exit(name === "SIGINT" ? 130 : 143);
    }
  });
}
// Of scripts/bootstrap.mjs: when that is gone, nobody can stop this process any more.
process.on("disconnect", () => stop.abort("disconnect"));
process.channel?.unref();
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
