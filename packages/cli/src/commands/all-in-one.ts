import type { Command } from "../command.ts";
import { configOption } from "../config-file.ts";
import { runService } from "../run-service.ts";
import { buildIngester, buildRouter, ingesterDeadlineMs, routerDeadlineMs } from "../services.ts";

export const allInOneCommand: Command = {
  name: "all-in-one",
  summary: "runs ingester and router in one process; no Redis needed",
  usage: "all-in-one [--config FILE]",
  description:
    "For one machine and for trying things out: index and registry are in memory unless redis.url is set, and are lost with the process.",
  examples: ["kvatlas all-in-one --config kvatlas.yaml"],
  options: { config: configOption },
  run: (context) =>
    runService(context, {
      service: "all-in-one",
      // The router starts last and closes first: it is ready when there is something to read from.
      build: async (deps) => [await buildIngester(deps), await buildRouter(deps)],
      closeTimeoutMs: (config) => ingesterDeadlineMs() + routerDeadlineMs(config),
    }),
};
