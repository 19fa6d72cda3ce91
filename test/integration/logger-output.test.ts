import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, expect, it } from "vitest";

describe("a service's log", () => {
  it("is written while the process lives, and whole when it ends", async () => {
    const script = `
      import { createLogger } from "@kvatlas/shared/logger";
      const logger = createLogger({ service: "s" });
      logger.info("first");
      process.on("message", () => { for (let i = 0; i < 1000; i++) logger.info({ i }, "last"); process.disconnect(); });`;
    const child = spawn(process.execPath, ["--conditions=@kvatlas/source", "--import", "tsx", "--input-type=module", "-e", script], {
      cwd: import.meta.dirname,
      stdio: ["ignore", "pipe", "inherit", "ipc"],
    });
    let text = "";
    child.stdout?.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    await expect.poll(() => text, { timeout: 20_000 }).toContain("first");
    child.send("go on");
    await once(child, "close");
    expect(text.trim().split("\n")).toHaveLength(1_001);
  });
});
