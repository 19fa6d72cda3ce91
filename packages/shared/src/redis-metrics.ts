import { Counter, type Registry } from "prom-client";
import type { RedisErrorCode } from "./redis-error.ts";

/** What this process has to say of its Redis. One per registry. */
export function createRedisMetrics(registry: Registry): { readonly error: (code: RedisErrorCode) => void } {
  const errors = new Counter({
    name: "kvatlas_redis_errors_total",
    help: "Answers of Redis that are errors, calls without an answer, and connections that failed, by code. NOSCRIPT, MOVED and ASK pass by themselves.",
    labelNames: ["code"],
    registers: [registry],
  });
  return { error: (code) => errors.inc({ code }) };
}
