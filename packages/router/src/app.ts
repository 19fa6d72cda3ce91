import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { createAdminServer } from "@kvatlas/shared/admin-server";
import { type Clock, systemClock } from "@kvatlas/shared/clock";
import type { KvatlasConfig, PoolConfig } from "@kvatlas/shared/config/schema";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import { type Component, createLifecycle } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { PoolRecords } from "@kvatlas/shared/registry/pool-records";
import type { QualityRecords } from "@kvatlas/shared/registry/quality-records";
import type { RoutingHistory } from "@kvatlas/shared/routing-history/routing-history";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import type { Registry } from "prom-client";
import { AccessGuard } from "./access/access-guard.ts";
import { CacheFloors } from "./estimation/cache-floors.ts";
import { ExtProcMetrics } from "./extproc/extproc-metrics.ts";
import { ExtProcServer } from "./extproc/extproc-server.ts";
import { createTimedDecide } from "./extproc/timed-decide.ts";
import type { FleetSnapshot } from "./fleet/fleet.ts";
import { FleetView } from "./fleet/fleet-view.ts";
import { InflightTracker } from "./fleet/inflight-tracker.ts";
import { LoadReader } from "./fleet/load-reader.ts";
import { OutlierEjection } from "./fleet/outlier-ejection.ts";
import { createPrepareRequest } from "./handling/prepare-request.ts";
import { createProxyRoute } from "./http/proxy-route.ts";
import { BodyBudget } from "./http/read-body.ts";
import { RouterServer } from "./http/server.ts";
import { RouterMetrics } from "./metrics.ts";
import { LiveModelRoutes } from "./models/live-model-routes.ts";
import { ModelCatalogue } from "./models/model-catalogue.ts";
import { OverloadControl } from "./overload/overload-control.ts";
import { askReplica } from "./proxy/ask-replica.ts";
import { HeaderVerdicts } from "./proxy/headers.ts";
import { RetryBudget } from "./proxy/retry-budget.ts";
import { UpstreamPools } from "./proxy/upstream-pools.ts";
import { DecisionQuality } from "./quality/decision-quality.ts";
import { readinessOf } from "./readiness.ts";
import { Decider } from "./routing/decide.ts";
import { KeyMemory } from "./routing/key-memory.ts";
import { createPolicy } from "./routing/policies/create-policy.ts";
import { PromptKeys } from "./routing/prompt-keys.ts";
import { VerifyLookup } from "./routing/verify-lookup.ts";
import type { EncoderContext } from "./tokenization/model-encoder.ts";
import { TokenizerMetrics } from "./tokenization/tokenizer-metrics.ts";
import { TurnEnd } from "./turn-end.ts";

export interface RouterDeps {
  /** Of role "request": fails fast. Not closed by the router. */
  readonly index: BlockIndex;
  readonly registry: EndpointRegistry;
  /** What routers sent where. @defaultValue in the memory of this router */
  readonly history?: RoutingHistory;
  /** What discovery knows of pools. @defaultValue nothing: pools of a cluster have no replicas */
  readonly pools?: PoolRecords;
  /** Where the router tells how its decisions turn out. @defaultValue nowhere */
  readonly quality?: QualityRecords;
  readonly logger: Logger;
  readonly clock?: Clock;
  readonly metricsRegistry: Registry;
  /** Called once per pool with a mode other than off; null where prompts cannot be tokenized. Closed by the router. */
  readonly createEncoder: (pool: PoolConfig, context: EncoderContext) => PromptEncoder | null;
}

export interface RouterOptions {
  /** Unique among the routers of a fleet. @defaultValue host name and a random part */
  readonly routerId?: string;
  /** For sampling and the `random` policy; 0 <= value < 1. @defaultValue Math.random */
  readonly random?: () => number;
}

export interface Router extends Component {
  /** `host:port` once started; null before. */
  readonly address: string | null;
  readonly adminAddress: string | null;
  /** Where gateways ask; null where they are not answered. */
  readonly extProcAddress: string | null;
  readonly extProcHealthAddress: string | null;
}

/** Time for the other components to close, after the drain. */
const closeMarginMs = 5_000;

/**
 * The routing service: OpenAI-compatible proxy, route API and admin port.
 *
 * `start` resolves when requests are accepted, whether or not index and registry can be reached; it rejects with KVATLAS_PORT_IN_USE.
 * `close` makes the router unready, stops accepting, lets answers finish up to `drainTimeoutMs`, and says goodbye to the registry.
 */
export function createRouter(deps: RouterDeps, config: KvatlasConfig, options: RouterOptions = {}): Router {
  const clock = deps.clock ?? systemClock;
  const random = options.random ?? Math.random;
  const routerId = options.routerId ?? `${hostname()}-${randomUUID().slice(0, 8)}`;
  const logger = deps.logger.child({ router: routerId });
  const { registry, index } = deps;

  const fleet = new FleetView(
    { registry, clock, logger, ...(deps.pools === undefined ? {} : { pools: deps.pools }) },
    { routerId, pools: config.pools, endpointTtlMs: config.router.endpointTtlMs },
  );
  const turnEnd = new TurnEnd();
  const atTurnEnd = (run: () => void) => turnEnd.run(run);
  const hasReaders = () => fleet.snapshot.routers.length > 1;
  const inflight = new InflightTracker({ registry, clock, logger, atTurnEnd, hasReaders }, { routerId });
  const loads = new LoadReader(registry, clock);
  const ejection = new OutlierEjection(clock);
  const pools = new UpstreamPools({ connectTimeoutMs: config.router.connectTimeoutMs });
  const bodies = new BodyBudget(config.router.maxBodyBytes);
  const encoders = new Map<string, PromptEncoder | null>();
  const loadingPools = new Set<string>();
  const tokenizers = new TokenizerMetrics(deps.metricsRegistry);
  const metrics = new RouterMetrics(deps.metricsRegistry, {
    openRequests: () => server.openRequests,
    readyEndpoints: () =>
      fleet.snapshot.pools.map(({ config: pool, endpoints }) => [pool.name, endpoints.filter(({ ready }) => ready).length] as const),
    bodyBytes: () => bodies.heldBytes,
    queued: (priority) => overload.queued(priority),
  });
  const verify = new VerifyLookup(
    { index, logger, random, onCompared: (agrees) => metrics.verified(agrees) },
    config.router.verifySampleRate,
  );
  const floors = new CacheFloors();
  const quality = new DecisionQuality(
    {
      records: deps.quality ?? null,
      clock,
      logger,
      onDecision: (measure) => metrics.measured(measure),
      onPrediction: (prediction) => metrics.predicted(prediction),
    },
    routerId,
  );
  let turn = 0;
  const decider = new Decider(
    {
      index,
      loads,
      inflight,
      ejection,
      verify,
      keys: new PromptKeys(new KeyMemory()),
      policy: createPolicy(config.router),
      sources: { next: () => turn++, random },
      clock,
      logger,
      atTurnEnd,
      onDecided: (decision) => {
        metrics.decided(decision);
        quality.decided(decision);
      },
      ...(deps.history === undefined ? {} : { history: deps.history }),
      floors,
      onShared: (outcome, routings) => metrics.shared(outcome, routings),
    },
    { routerId, config: config.router },
  );
  const access = new AccessGuard(config.router, logger);
  const liveRoutes = new LiveModelRoutes(config.router.models);
  const modelRoutes = liveRoutes.routes;
  const overload: OverloadControl = new OverloadControl(
    { clock, onShed: (why, priority) => metrics.shed(why, priority), onWaited: (priority, ms) => metrics.waited(priority, ms) },
    config.router.overload,
  );
  const models = new ModelCatalogue({
    fleet,
    ask: (address) => askReplica(pools, address, "/v1/models", access.credentials.apiKey),
    routes: modelRoutes,
    clock,
  });
  const readiness = (): readonly string[] => readinessOf(fleet.snapshot, server.isDraining, loadingPools);
  const proxy = createProxyRoute(
    {
      decider,
      fleet,
      inflight,
      encoders,
      bodies,
      modelRoutes,
      overload,
      metrics,
      quality,
      clock,
      logger,
      pools,
      ejection,
      budget: new RetryBudget(config.router.retryBudget, clock),
      verdicts: new HeaderVerdicts(),
      credentials: () => access.credentials,
    },
    config.router,
  );
  const server: RouterServer = new RouterServer(
    {
      routeApi: { decider, fleet, loads, encoders, bodies, modelRoutes, clock },
      access,
      models,
      proxy,
      onUnauthorized: () => metrics.finished("refused", 401),
      readiness,
      clock,
      logger,
    },
    { listen: config.router.listen, drainTimeoutMs: config.router.drainTimeoutMs },
  );
  const extProc: ExtProcServer = new ExtProcServer(
    {
      exchange: {
        prepare: createPrepareRequest({ decider, fleet, encoders, modelRoutes, overload, logger }, config.router),
        decide: createTimedDecide(decider, config.router),
        access,
        bodies,
        inflight,
        ejection,
        quality,
        metrics,
        extProcMetrics: new ExtProcMetrics(deps.metricsRegistry, () => extProc.openStreams),
        clock,
        logger,
      },
      readiness,
      clock,
      logger,
    },
    config.router,
  );
  const admin = createAdminServer(
    { registry: deps.metricsRegistry, logger, readiness },
    { listen: config.router.admin, setting: "router.admin" },
  );

  fleet.onRefresh((snapshot) => {
    const endpoints = snapshot.pools.flatMap((pool) => pool.endpoints);
    pools.retain(new Set(endpoints.map((endpoint) => endpoint.address)));
    ejection.retain(new Set(endpoints.map((endpoint) => endpoint.id)));
    floors.observe(snapshot, clock.now());
    liveRoutes.follow(snapshot.pools.flatMap(({ discovered }) => (discovered === undefined ? [] : [discovered])));
  });

  const lifecycle = createLifecycle(
    [
      admin,
      access,
      component("tokenizers", {
        start: async () => {
          for (const pool of config.pools) {
            if (pool.prefixCache.mode === "off") continue;
            const encoder = deps.createEncoder(pool, {
              addresses: () => readyAddresses(fleet.snapshot, pool.name),
              apiKey: () => access.credentials.apiKey,
              metrics: tokenizers,
              onFinding: (text) => quality.found({ pool: pool.name, name: "tokenizer", text }),
            });
            encoders.set(pool.name, encoder);
            if (encoder?.ready === undefined) continue;
            loadingPools.add(pool.name);
            const loaded = () => loadingPools.delete(pool.name);
            encoder.ready.then(loaded, loaded);
          }
        },
        close: async () => {
          await Promise.all([...encoders.values()].map((encoder) => encoder?.close()));
        },
      }),
      fleet,
      inflight,
      quality,
      component("upstreams", { start: async () => {}, close: () => pools.destroy() }),
      // They drain side by side, each within the same time.
      component("doors", {
        start: async () => {
          await server.start();
          await extProc.start();
        },
        close: async () => {
          await Promise.all([server.close(), extProc.close()]);
        },
      }),
      component("log", {
        start: async () =>
          logger.info(
            {
              address: server.address,
              admin: admin.address,
              ...(extProc.address === null ? {} : { extProc: extProc.address, health: extProc.healthAddress }),
              pools: config.pools.length,
            },
            "router is listening",
          ),
        close: async () => {},
      }),
    ],
    { logger, clock },
    { name: "router", closeTimeoutMs: config.router.drainTimeoutMs + closeMarginMs },
  );

  return {
    name: "router",
    get address() {
      return server.address;
    },
    get adminAddress() {
      return admin.address;
    },
    get extProcAddress() {
      return extProc.address;
    },
    get extProcHealthAddress() {
      return extProc.healthAddress;
    },
    start: () => lifecycle.start(),
    close: () => lifecycle.close(),
  };
}

function readyAddresses(fleet: FleetSnapshot, pool: string): readonly string[] {
  const endpoints = fleet.pools.find(({ config }) => config.name === pool)?.endpoints ?? [];
  return endpoints.filter(({ ready }) => ready).map(({ address }) => address);
}

function component(name: string, verbs: Pick<Component, "start" | "close">): Component {
  return { name, ...verbs };
}
