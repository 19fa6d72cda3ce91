import { PassThrough, Readable } from "node:stream";
import { KvatlasError } from "@kvatlas/shared/errors";
import { describe, expect, it } from "vitest";
import type { Command } from "./command.ts";
import { commands } from "./commands.ts";
import { type CommandEntry, dispatch } from "./dispatch.ts";

const echo: Command = {
  name: "echo",
  summary: "prints its arguments",
  usage: "echo [--upper] [--count N] <word>...",
  examples: ["kvatlas echo hello"],
  options: {
    upper: { type: "boolean", short: "u", description: "In capitals." },
    count: { type: "string", value: "N", description: "How often; 1 to 3." },
    tag: { type: "string", multiple: true, description: "May be repeated." },
  },
  positionals: { name: "word", min: 1, max: 3 },
  run: async ({ args, stdout }) => {
    if (args.positionals[0] === "fail") throw new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", "Redis does not answer");
    if (args.positionals[0] === "bug") throw new TypeError("bug");
    const text = args.positionals.join(" ");
    stdout.write(
      `${(args.flag("upper") ? text.toUpperCase() : text).repeat(args.integer("count", { min: 1, max: 3 }) ?? 1)}${args.strings("tag").join()}`,
    );
    return 0;
  },
};

const entries: readonly CommandEntry[] = [{ name: echo.name, summary: echo.summary, load: async () => echo }];

async function run(...argv: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const code = await dispatch(entries, argv, { env: {}, stdin: Readable.from([]), stdout, stderr, signal: new AbortController().signal });
  stdout.end();
  stderr.end();
  return { code, stdout: (await stdout.toArray()).join(""), stderr: (await stderr.toArray()).join("") };
}

describe("dispatch", () => {
  it("runs a command with its parsed arguments", async () => {
    expect(await run("echo", "-u", "--count=2", "--tag", "x", "--tag", "y", "a")).toEqual({ code: 0, stdout: "AAx,y", stderr: "" });
  });

  it.each([
    [["ecko"], 'kvatlas: unknown command "ecko". Did you mean "echo"? Commands: echo.\nSee: kvatlas --help\n'],
    [["--upper"], 'kvatlas: unknown option "--upper". Commands: echo.\nSee: kvatlas --help\n'],
    [["echo", "a", "--uper"], 'kvatlas: unknown option "--uper" of "kvatlas echo". Did you mean "--upper"?\nSee: kvatlas echo --help\n'],
    [["echo", "a", "-x"], 'kvatlas: unknown option "-x" of "kvatlas echo".\nSee: kvatlas echo --help\n'],
    [["echo", "a", "--count", "4"], 'kvatlas: option --count: got "4", expected a whole number from 1 to 3.\nSee: kvatlas echo --help\n'],
    [
      ["echo", "a", "--count", "1.5"],
      'kvatlas: option --count: got "1.5", expected a whole number from 1 to 3.\nSee: kvatlas echo --help\n',
    ],
    [["echo", "a", "--count"], "kvatlas: option --count needs a value (N).\nSee: kvatlas echo --help\n"],
    [
      ["echo", "a", "--count", "--upper"],
      'kvatlas: option --count needs a value (N). Write --count=--upper if "--upper" is meant as the value.\nSee: kvatlas echo --help\n',
    ],
    [["echo", "a", "--upper=yes"], 'kvatlas: option --upper takes no value, got "yes".\nSee: kvatlas echo --help\n'],
    [["echo", "a", "--count=1", "--count=2"], "kvatlas: option --count is given twice; it takes one value.\nSee: kvatlas echo --help\n"],
    [["echo"], 'kvatlas: "kvatlas echo" needs a word.\nSee: kvatlas echo --help\n'],
    [["echo", "a", "b", "c", "d"], 'kvatlas: unexpected argument "d" of "kvatlas echo".\nSee: kvatlas echo --help\n'],
  ])("exits 2 with a sentence: %j", async (argv, message) => {
    expect(await run(...argv)).toEqual({ code: 2, stdout: "", stderr: message });
  });

  it("exits 1 with the message of an error raised on purpose", async () => {
    expect(await run("echo", "fail")).toEqual({ code: 1, stdout: "", stderr: "kvatlas: Redis does not answer\n" });
  });

  it("exits 1 with the stack of an error nobody expected", async () => {
    const { code, stderr } = await run("echo", "bug");
    expect(code).toBe(1);
    expect(stderr).toContain("TypeError: bug");
  });

  it("prints the commands on stderr with exit code 2 without arguments, and on stdout for --help", async () => {
    const none = await run();
    const help = await run("--help");
    expect([none.code, none.stdout, help.code, help.stderr]).toEqual([2, "", 0, ""]);
    expect(help.stdout).toBe(none.stderr);
    expect(help.stdout).toContain("  echo  prints its arguments");
  });

  it("prints usage, options and examples of a command", async () => {
    const { code, stdout } = await run("echo", "--help");
    expect(code).toBe(0);
    expect(stdout).toBe((await run("help", "echo")).stdout);
    expect(stdout).toMatchInlineSnapshot(`
      "kvatlas echo: prints its arguments

      Usage: kvatlas echo [--upper] [--count N] <word>...

      Options:
        -u, --upper      In capitals.
            --count N    How often; 1 to 3.
            --tag VALUE  May be repeated.
        -h, --help       Prints this help.

      Examples:
        kvatlas echo hello
      "
    `);
  });
});

describe("commands", () => {
  it.each(commands.map((entry) => [entry.name, entry] as const))(
    "%s carries its listed name and summary, and examples",
    async (_, entry) => {
      const command = await entry.load();
      expect({ name: command.name, summary: command.summary }).toEqual({ name: entry.name, summary: entry.summary });
      expect(command.examples.length).toBeGreaterThan(0);
    },
  );
});
