import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { endsWithThisProcess } from "./child-processes.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** A `kvatlas` command as a process that may be killed, stopped and continued; what it writes goes to a file. */
export class ManagedProcess {
  readonly #child: ChildProcess;
  readonly #gone: Promise<void>;
  #isGone = false;
  #isPaused = false;

  /** Of the environment, `KVATLAS_*` variables are only those given here. The process ends with this one, however that ends. */
  constructor(args: readonly string[], env: Readonly<Record<string, string>>, logFile: string) {
    const inherited = Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !name.startsWith("KVATLAS_") && name !== "NODE_OPTIONS"),
    );
    const log = openSync(logFile, "a");
    this.#child = spawn(process.execPath, ["--conditions=@kvatlas/source", "--import", "tsx", `${root}packages/cli/src/main.ts`, ...args], {
      cwd: root,
      env: { ...inherited, ...env },
      stdio: ["ignore", log, log, "ipc"],
    });
    closeSync(log);
    const release = endsWithThisProcess(this.#child);
    this.#gone = new Promise((resolve) => {
      const end = (): void => {
        this.#isGone = true;
        release();
        resolve();
      };
      this.#child.once("error", end);
      this.#child.once("exit", end);
    });
  }

  get isAlive(): boolean {
    return !this.#isGone;
  }

  pause(): void {
    if (!this.#isGone) this.#isPaused = this.#child.kill("SIGSTOP");
  }

  resume(): void {
    if (this.#isPaused) this.#child.kill("SIGCONT");
    this.#isPaused = false;
  }

  /** SIGKILL, and waits for the end. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#gone;
  }

  /** SIGTERM, and waits for the end; a process that does not end within `timeoutMs` is killed. */
  async stop(timeoutMs: number): Promise<void> {
    this.resume();
    this.#child.kill("SIGTERM");
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), timeoutMs);
    await this.#gone;
    clearTimeout(timer);
  }
}
