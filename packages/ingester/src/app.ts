import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { createAdminServer } from "@kvatlas/shared/admin-server";
import type { StoreState } from "@kvatlas/shared/backend";
import { type Clock, systemClock } from "@kvatlas/shared/clock";
import type { KvatlasConfig } from "@kvatlas/shared/config/schema";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import { type Component, createLifecycle } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import { createJobsConnection } from "@kvatlas/shared/redis-jobs";
import { hasRedis } from "@kvatlas/shared/redis-topology";
import type { EndpointRecord, EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { HousekeepingRecords } from "@kvatlas/shared/registry/housekeeping-records";
import { MemoryHousekeepingRecords } from "@kvatlas/shared/registry/memory-housekeeping-records";
import { MemoryPoolRecords } from "@kvatlas/shared/registry/memory-pool-records";
import type { PoolRecords } from "@kvatlas/shared/registry/pool-records";
import type { EndpointId } from "@kvatlas/shared/types";
import type { Registry } from "prom-client";
import { Agent } from "undici";
import { DynamicTargets } from "./discovery/dynamic-targets.ts";
import { createDiscoveryMetrics } from "./discovery/kubernetes/discovery-metrics.ts";
import { openKubeAccess } from "./discovery/kubernetes/kube-access.ts";
import { createKubeApi } from "./discovery/kubernetes/kube-api.ts";
import { KubernetesDiscovery } from "./discovery/kubernetes/kubernetes-discovery.ts";
import { PoolFollower } from "./discovery/pool-follower.ts";
import type { ReplicaTarget } from "./discovery/replica-target.ts";
import { staticTargets } from "./discovery/static-source.ts";
import { adoptIdle } from "./housekeeping/adopt-idle.ts";
import { auditIndex } from "./housekeeping/audit-index.ts";
import { AUDIT_TASK, reportFromText } from "./housekeeping/audit-report.ts";
import { createFleetHousekeeping } from "./housekeeping/fleet-housekeeping.ts";
import { forgetDeparted } from "./housekeeping/forget-departed.ts";
import { createHousekeepingMetrics } from "./housekeeping/housekeeping-metrics.ts";
import type { HousekeepingJobs } from "./housekeeping/jobs.ts";
import { missingOf } from "./housekeeping/missing.ts";
import { periodically } from "./housekeeping/periodically.ts";
import { purgeIndex } from "./housekeeping/purge-index.ts";
import { serveRebuilds } from "./housekeeping/serve-rebuilds.ts";
import { watchMemory } from "./housekeeping/watch-memory.ts";
import { createEngineClient } from "./load/engine-client.ts";
import { LoadScraper } from "./load/load-scraper.ts";
import { createIngesterMetrics } from "./metrics.ts";
import { onNews } from "./on-news.ts";
import { createEndpointTenure, type EndpointTenure } from "./ownership/endpoint-tenure.ts";
import { Ownership } from "./ownership/ownership.ts";
import { PacedWarning } from "./paced-warning.ts";
import { FleetSchemes } from "./pipeline/fleet-schemes.ts";
import { schemeDifferences } from "./pipeline/scheme-differences.ts";
import { BindRouter } from "./subscriber/bind-router.ts";
import { FrameQueue } from "./subscriber/frame-queue.ts";
import { createSourceLocator } from "./subscriber/source-locator.ts";
import { createZmqSubscriber } from "./subscriber/zmq-subscriber.ts";

export interface IngesterDeps {
  readonly index: BlockIndex;
  readonly registry: EndpointRegistry;
  readonly logger: Logger;
  readonly metricsRegistry: Registry;
  /** @defaultValue in memory */
  readonly housekeeping?: HousekeepingRecords;
  /** What discovery knows of pools. @defaultValue in memory */
  readonly pools?: PoolRecords;
  /** What is known of the store itself. @defaultValue nothing */
  readonly store?: StoreState;
  /** @defaultValue the system's */
  readonly clock?: Clock;
}

export interface IngesterOptions {
  /** @defaultValue `ingester.instanceId`, else host name, process id and a random part */
  readonly instanceId?: string;
  /** False leaves out the admin server, for processes that have one already. @defaultValue true */
  readonly admin?: boolean;
}

export interface Ingester extends Component {
  readonly instanceId: string;
  /** Resolved bind-mode address; null in connect mode and before `start`. */
  boundAddress(): string | null;
  /** `host:port` of the admin server; null without one and before `start`. */
  adminAddress(): string | null;
  /** Why the ingester is not ready; empty when it is. */
  readiness(): readonly string[];
  /** Endpoints this instance owns, and whether what could be replayed for them has been. */
  owned(): ReadonlyMap<EndpointId, { readonly isCaughtUp: boolean }>;
}

const closeTimeoutMs = 10_000;
const housekeepingMs = 5_000;
/** One run of the purge; others have their turn in between. */
const maxPurgeMs = 20_000;
/** A job stays with an ingester that has fallen silent for longer than an endpoint does: running it twice costs more than waiting. */
const locksPerLease = 3;
/** Lease times after which an endpoint whose owner shows no sign of life has none: take-overs are through by then. */
const ownerlessLeases = 2;
/** Endpoints that a reason for not being ready names. */
const maxNamed = 5;
/** A registry that has not answered for this many heartbeats is worth a reason. */
const lateBeats = 5;

/**
 * Keeps the index equal to what the replicas say: discovery, ownership, subscriptions, the pipeline and the load scraper, wired.
 * `start` does not wait for Redis or replicas; `close` hands every endpoint over. It rejects with KVATLAS_PORT_IN_USE for the admin server.
 */
export function createIngester(deps: IngesterDeps, config: KvatlasConfig, options: IngesterOptions = {}): Ingester {
  const { index, registry, logger } = deps;
  const clock = deps.clock ?? systemClock;
  const settings = config.ingester;
  const instanceId = options.instanceId ?? settings.instanceId ?? `${hostname()}-${process.pid}-${randomBytes(3).toString("hex")}`;
  const metrics = createIngesterMetrics(deps.metricsRegistry);
  const agent = new Agent({
    connections: 4,
    keepAliveTimeout: 4_000,
    headersTimeout: 2_000,
    bodyTimeout: 2_000,
    connect: { timeout: 2_000 },
  });
  const engine = createEngineClient(agent);
  const scraper = new LoadScraper({ engine, registry, clock, logger, metrics }, { intervalMs: settings.scrapeIntervalMs });
  const locator = createSourceLocator({ engine, clock });
  const schemes = new FleetSchemes({ registry, clock });
  const dynamic = new DynamicTargets(config.pools, settings);
  const tenures = new Map<EndpointId, EndpointTenure>();

  const router = new BindRouter(
    {
      clock,
      logger,
      metrics,
      claim: (topic, rank) => {
        const target = dynamic.targetOf(topic, rank);
        if (target !== null) ownership.claim(target);
        return target?.endpoint ?? null;
      },
    },
    settings,
  );
  const ownership: Ownership = new Ownership(
    {
      registry,
      clock,
      logger,
      metrics,
      openTenure: (target, lease, stored) => {
        const dialsUs = target.events === null && target.seeksEvents !== true;
        const queue = dialsUs ? router.queueOf(target.endpoint) : new FrameQueue(settings.maxQueuedBytes);
        const onRank = (rank: ReplicaTarget) => ownership.adopt(rank);
        const tenure = createEndpointTenure({ index, registry, scraper, clock, logger, metrics, locator, schemes, onRank }, settings, {
          target,
          lease,
          stored,
          queue,
        });
        tenures.set(target.endpoint, tenure);
        return tenure;
      },
    },
    { instanceId, leaseTtlMs: settings.leaseTtlMs, heartbeatMs: settings.heartbeatMs },
    staticTargets(config.pools, { seek: settings.bind === null }),
  );
  const malformed = new PacedWarning({ clock, logger }, "messages came in that are not topic, number and payload");
  const bound =
    settings.bind === null
      ? null
      : createZmqSubscriber(
          {
            onFrame: (frame) => router.route(frame),
            onConnection: (event) => metrics.connections.inc({ event }),
            onMalformed: () => {
              metrics.frames.inc({ outcome: "malformed" });
              malformed.add(1, { bind: settings.bind });
            },
          },
          { logger },
          { mode: "bind", address: settings.bind, maxMessageBytes: settings.maxQueuedBytes },
        );
  const records = deps.housekeeping ?? new MemoryHousekeepingRecords();
  const house = createHousekeepingMetrics(deps.metricsRegistry);
  const startedAt = clock.monotonic();
  const { purgeIntervalMs, purgeBlocksPerSecond, departedAfterMs, auditIntervalMs, auditSampleBlocks, truthPath } = config.housekeeping;
  const jobs: HousekeepingJobs = {
    purge: {
      everyMs: purgeIntervalMs,
      run: (signal) =>
        purgeIndex(
          {
            registry,
            index,
            records,
            clock,
            onSlice: (examined, dropped) => {
              house.examined.inc(examined);
              metrics.swept.inc(dropped);
            },
          },
          { blocksPerSecond: purgeBlocksPerSecond, maxRunMs: maxPurgeMs },
          signal,
        ),
    },
    "forget-departed": {
      everyMs: Math.max(1_000, Math.round(departedAfterMs / 4)),
      run: async (signal) => {
        // After a stop of the whole fleet every record is old: whoever has them configured gets the time to say so.
        if (clock.monotonic() - startedAt < departedAfterMs) return { forgotten: [] };
        const forgotten = await forgetDeparted(
          { registry, index, records, clock, logger, isKnown: (endpoint) => ownership.targets.has(endpoint) },
          { instanceId, leaseTtlMs: settings.leaseTtlMs, departedAfterMs },
          signal,
        );
        house.forgotten.inc(forgotten.length);
        return { forgotten };
      },
    },
    audit: {
      everyMs: auditIntervalMs,
      run: (signal) =>
        auditIndex(
          {
            registry,
            index,
            records,
            clock,
            logger,
            truth: truthPath === null ? null : (address, cancel) => engine.dumps(address, truthPath, cancel),
          },
          { instanceId, leaseTtlMs: settings.leaseTtlMs, sampleBlocks: auditSampleBlocks, blocksPerSecond: purgeBlocksPerSecond },
          signal,
        ),
    },
  };
  // Without Redis there is no fleet: this process does what there is to do.
  const housekeeping: readonly Component[] = !hasRedis(config.redis)
    ? (["purge", "forget-departed"] as const).map((name) =>
        periodically(name, (signal) => jobs[name].run(signal), jobs[name].everyMs, logger),
      )
    : [
        createFleetHousekeeping(
          { connect: () => createJobsConnection(config.redis, logger), jobs, logger, metrics: house },
          { instanceId, lockMs: locksPerLease * settings.leaseTtlMs },
        ),
      ];
  let started = false;
  let missing: readonly string[] = [];

  async function keepHouse(): Promise<void> {
    const deadline = clock.monotonic() - departedAfterMs;
    for (const [endpoint, tenure] of tenures) {
      if (!ownership.owns(endpoint)) tenures.delete(endpoint);
      else if (dynamic.has(endpoint) && tenure.aliveAt < deadline) await depart(endpoint);
    }
    if (settings.bind !== null) {
      const adopt = (record: EndpointRecord) => {
        const target = dynamic.targetOfRecord(record);
        if (target !== null) ownership.adopt(target);
      };
      await adoptIdle(
        { registry, clock, isKnown: (endpoint) => ownership.targets.has(endpoint), adopt },
        { afterMs: 2 * settings.leaseTtlMs },
      );
    }
    const known = await registry.endpoints();
    missing = missingOf({
      wanted: ownership.targets.keys(),
      records: known,
      isOwnedHere: (endpoint) => ownership.owns(endpoint),
      nowMs: clock.now(),
      ownerlessAfterMs: ownerlessLeases * settings.leaseTtlMs,
    });
    const differences = schemeDifferences(known, await registry.scopes());
    for (const [endpoint, tenure] of tenures) tenure.find("scheme-differs", differences.get(endpoint) ?? null);
    const ownedHere = (endpoint: EndpointId) => (ownership.owns(endpoint) ? (tenures.get(endpoint) ?? null) : null);
    await serveRebuilds({ records, logger, ownedHere, onRebuild: () => house.rebuilds.inc() });
    const audited = reportFromText((await records.progress()).get(AUDIT_TASK));
    if (audited !== null) house.showAudit(audited);
  }

  /** Of an endpoint that another instance owns only the memory of it here: that instance does the rest. */
  async function depart(endpoint: EndpointId): Promise<void> {
    const isOwner = ownership.owns(endpoint);
    const scope = isOwner ? ((await registry.endpoints()).find((record) => record.id === endpoint)?.meta.scope ?? null) : null;
    await drop(endpoint);
    router.forget(endpoint);
    if (!isOwner) return;
    if (scope !== null) await index.forget(scope, endpoint);
    await registry.remove(endpoint);
    logger.info({ endpoint }, "a replica has gone and is forgotten");
  }

  async function drop(endpoint: EndpointId): Promise<void> {
    await ownership.drop(endpoint);
    dynamic.forget(endpoint);
  }

  const kubernetesPools = config.pools.flatMap(({ name, endpoints: { kubernetes } }) =>
    kubernetes === undefined ? [] : [{ name, settings: kubernetes }],
  );
  const pools = deps.pools ?? new MemoryPoolRecords(clock);
  const follower = new PoolFollower(
    {
      targets: () => ownership.targets,
      adopt: (target) => ownership.adopt(target),
      drop,
      depart,
      reconfigure: (effective, targets) => dynamic.reconfigure(effective, targets),
    },
    config.pools,
    { seek: settings.bind === null },
  );
  const discovery: readonly Component[] =
    kubernetesPools.length === 0
      ? []
      : [
          new KubernetesDiscovery(
            {
              records: pools,
              api: createKubeApi(() => openKubeAccess(config.kubernetes)),
              clock,
              logger,
              metrics: createDiscoveryMetrics(deps.metricsRegistry),
            },
            { instanceId, pools: kubernetesPools, leaseTtlMs: settings.leaseTtlMs },
          ),
          onNews("pool-follower", async () => follower.follow(await pools.read()), {
            intervalMs: settings.heartbeatMs,
            subscribe: (listener) => pools.onChange(listener),
            logger,
          }),
        ];

  function readiness(): readonly string[] {
    if (!started) return ["the ingester has not started"];
    const reasons: string[] = [];
    const { beatAt } = ownership;
    if (beatAt === null) reasons.push("the registry has not answered yet");
    else if (clock.monotonic() - beatAt > lateBeats * settings.heartbeatMs) {
      reasons.push(`the registry has not answered for ${Math.round((clock.monotonic() - beatAt) / 1_000)} s`);
    }
    reasons.push(...(deps.store?.troubles() ?? []));
    const opening = [...tenures].filter(([endpoint, tenure]) => ownership.owns(endpoint) && !tenure.isOpen).map(([endpoint]) => endpoint);
    const named = opening.slice(0, maxNamed).join(", ");
    if (opening.length > 0)
      reasons.push(`${opening.length} endpoints are being taken over: ${named}${opening.length > maxNamed ? ", ..." : ""}`);
    return reasons;
  }

  const admin =
    options.admin === false
      ? null
      : createAdminServer(
          { registry: deps.metricsRegistry, logger, readiness, missing: () => missing },
          { listen: settings.admin, setting: "ingester.admin" },
        );
  const lifecycle = createLifecycle(
    [
      ...(admin === null ? [] : [admin]),
      { name: "http-client", start: () => Promise.resolve(), close: () => agent.destroy() },
      { name: "load-scraper", start: async () => scraper.start(), close: () => scraper.close() },
      { name: "ownership", start: async () => ownership.start(), close: () => ownership.close() },
      ...discovery,
      periodically("housekeeping", keepHouse, housekeepingMs, logger),
      ...(deps.store === undefined
        ? []
        : [watchMemory({ registry, store: deps.store, clock, logger, metrics: house }, { instanceId, leaseTtlMs: settings.leaseTtlMs })]),
      ...housekeeping,
      ...(bound === null ? [] : [{ name: "bind-subscriber", start: () => bound.start(), close: () => bound.close() }]),
    ],
    { logger, clock },
    { name: "ingester", closeTimeoutMs },
  );

  return {
    name: "ingester",
    instanceId,
    boundAddress: () => bound?.boundAddress ?? null,
    adminAddress: () => admin?.address ?? null,
    readiness,
    owned: () =>
      new Map(
        [...tenures].filter(([endpoint]) => ownership.owns(endpoint)).map(([endpoint, { isCaughtUp }]) => [endpoint, { isCaughtUp }]),
      ),
    start: async () => {
      await lifecycle.start();
      started = true;
      logger.info(
        { instanceId, admin: admin?.address ?? null, bind: bound?.boundAddress ?? null, endpoints: ownership.targets.size },
        "ingester started",
      );
    },
    close: () => {
      started = false;
      return lifecycle.close();
    },
  };
}
