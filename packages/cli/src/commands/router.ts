import type { Command } from "../command.ts";
import { configOption } from "../config-file.ts";
import { runService } from "../run-service.ts";
import { buildRouter, needsIndex, requireRedis, routerDeadlineMs } from "../services.ts";

export const routerCommand: Command = {
  name: "router",
  summary: "runs the router: OpenAI-compatible proxy and /kvatlas API",
  usage: "router [--config FILE]",
  description: "Stateless: any number may run behind a load balancer; all of them give the same answer at the same moment.",
  examples: ["kvatlas router --config kvatlas.yaml", "KVATLAS_ROUTER_LISTEN=127.0.0.1:8080 kvatlas router -c kvatlas.yaml"],
  options: { config: configOption },
  run: (context) =>
    runService(context, {
      service: "router",
      check: (config) => {
        if (needsIndex(config)) requireRedis(config, "router");
      },
      build: async (deps) => [await buildRouter(deps)],
      closeTimeoutMs: routerDeadlineMs,
    }),
};
