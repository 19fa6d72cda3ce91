import type { Command } from "../command.ts";
import { configOption } from "../config-file.ts";
import { runService } from "../run-service.ts";
import { buildIngester, ingesterDeadlineMs, requireRedis } from "../services.ts";

export const ingesterCommand: Command = {
  name: "ingester",
  summary: "runs the ingester: KV-cache events of the replicas into the index",
  usage: "ingester [--config FILE]",
  description:
    "Subscribes to the replicas' events and keeps the index in Redis true. Any number may run: they share the replicas and take over from each other.",
  examples: [
    "kvatlas ingester --config kvatlas.yaml",
    "KVATLAS_REDIS_URL=redis://localhost:6379 KVATLAS_INGESTER_BIND='tcp://*:5557' kvatlas ingester",
  ],
  options: { config: configOption },
  run: (context) =>
    runService(context, {
      service: "ingester",
      check: (config) => requireRedis(config, "ingester"),
      build: async (deps) => [await buildIngester(deps)],
      closeTimeoutMs: ingesterDeadlineMs,
    }),
};
