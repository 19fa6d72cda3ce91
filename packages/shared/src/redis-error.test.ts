import { describe, expect, it } from "vitest";
import { KvatlasError } from "./errors.ts";
import { meaningOf, redisError, redisErrorCode, redisErrorCodes } from "./redis-error.ts";

function reply(message: string): Error {
  const error = new Error(message);
  error.name = "ReplyError";
  return error;
}

describe("the code of an error", () => {
  it.each([
    ["OOM command not allowed when used memory > 'maxmemory'.", "OOM"],
    // Redis 6.2, from a script.
    [
      "ERR Error running script (call to f_6b1bf486c81ceb7edf3c093f4c48582e38c0e791): @user_script:1: @user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.",
      "OOM",
    ],
    ["-OOM command not allowed when used memory > 'maxmemory'.", "OOM"],
    [
      "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments script: 4a15, on @user_script:1.",
      "NOPERM",
    ],
    ["ERR ACL failure in script: No permissions to access a key script: on @user_script:1.", "NOPERM"],
    ["MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk.", "MISCONF"],
    ["MOVED 3999 127.0.0.1:6381", "MOVED"],
    ["NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT"],
    ["ERR unknown command 'HGETF'", "ERR"],
    ["SOMETHINGNEW happened", "ERR"],
  ])("%s", (message, code) => {
    expect(redisErrorCode(reply(message))).toBe(code);
    expect(redisErrorCode(redisError(reply(message)))).toBe(code);
  });

  it("tells silence from absence", () => {
    expect(redisErrorCode(new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", "Redis did not answer within 50 ms."))).toBe("timeout");
    expect(redisErrorCode(new Error("connect ETIMEDOUT"))).toBe("timeout");
    expect(redisErrorCode(new Error("connect ECONNREFUSED 127.0.0.1:1"))).toBe("unreachable");
    expect(redisErrorCode(new Error("Connection is closed."))).toBe("unreachable");
    expect(redisErrorCode("nonsense")).toBe("unreachable");
  });

  it("is one of a closed list, so that it may be a label", () => {
    for (const text of ["", "OOM", "x".repeat(1_000), "ERR", "WRONGPASS x"]) expect(redisErrorCodes).toContain(redisErrorCode(reply(text)));
  });
});

describe("an error in our terms", () => {
  it("is one to repeat when it may pass, and one to change something for otherwise", () => {
    for (const code of ["LOADING", "READONLY", "OOM", "BUSY", "CLUSTERDOWN", "MISCONF"] as const) {
      expect(redisError(reply(`${code} said Redis`))).toMatchObject({ code: "KVATLAS_REDIS_UNAVAILABLE", retryable: true });
      expect(redisError(reply(`${code} said Redis`)).message).toContain(meaningOf(code) ?? "?");
    }
    for (const code of ["NOAUTH", "WRONGPASS", "NOPERM", "WRONGTYPE"] as const)
      expect(redisError(reply(`${code} said Redis`))).toMatchObject({ code: "KVATLAS_REDIS_UNSUITABLE", retryable: false });
    expect(redisError(reply("ERR unknown command 'x'"))).toMatchObject({ code: "KVATLAS_REDIS_UNSUITABLE" });
    for (const code of ["MOVED", "ASK", "NOSCRIPT", "ERR", "timeout", "unreachable"] as const) expect(meaningOf(code)).toBeNull();
  });
});
