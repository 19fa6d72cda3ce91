import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { freePortRange } from "../support/free-ports.ts";
import { UsageError } from "./arguments.ts";
import type { Question } from "./proxy-protocol.ts";

/** A proxy of somebody else: its name, and the command that starts it. */
export interface Peer {
  readonly name: string;
  /** Words; `{replica}` and `{port}` stand for the replica's host and port and for the port to listen on. */
  readonly command: readonly string[];
}

export function readPeer(text: string): Peer {
  const [, name, command] = /^([\w-]+)=(.+)$/s.exec(text) ?? [];
  if (name === undefined || command === undefined || !command.includes("{port}") || !command.includes("{replica}")) {
    throw new UsageError(`--peer: got "${text}", expected NAME=COMMAND with {port} and {replica} in the command.`);
  }
  return { name, command: command.trim().split(/\s+/) };
}

const startMs = 60_000;
/** Kernel ticks of /proc/PID/stat: 100 a second on every Linux that Node runs on. */
const usPerTick = 10_000;

/** Starts it and waits until it answers a completion with 200. Linux only: what it costs is read from /proc. */
export async function startPeer(peer: Peer, replica: string, probe: (address: string) => Promise<boolean>) {
  const port = await freePortRange(1);
  const [file = "", ...args] = peer.command.map((word) => word.replaceAll("{replica}", replica).replaceAll("{port}", String(port)));
  const child = spawn(file, args, { stdio: "ignore" });
  const failed = new Promise<never>((_, reject) => {
    child.once("error", (error) => reject(new UsageError(`--peer ${peer.name}: ${error.message}`)));
    child.once("exit", (code) => reject(new UsageError(`--peer ${peer.name} ended with ${code}: ${[file, ...args].join(" ")}`)));
  });
  failed.catch(() => {});
  const address = `127.0.0.1:${port}`;
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
  };
  const deadline = performance.now() + startMs;
  try {
    while (!(await Promise.race([probe(address).catch(() => false), failed]))) {
      if (performance.now() > deadline)
        throw new UsageError(`--peer ${peer.name} did not answer a completion with 200 in ${startMs / 1_000} s`);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  } catch (error) {
    await stop();
    throw error;
  }
  return { address, ask: async (question: Question) => figureOf(child.pid ?? 0, question), stop };
}

/** Of the process and all of its threads (proc(5): utime and stime of `stat`, VmRSS of `status`). */
function figureOf(pid: number, question: Question): number {
  if (question === "residentBytes") {
    const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return Number(kib) * 1_024;
  }
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /s, "")
    .split(" ");
  const at = (field: number) => Number(fields[field - 3]);
  return (at(14) + at(15)) * usPerTick;
}
