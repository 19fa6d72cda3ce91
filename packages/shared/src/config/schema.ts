import { z } from "zod";
import { hashAlgorithms } from "../hashing/key-scheme.ts";
import { disaggregationSchema } from "./disaggregation-schema.ts";
import { kubernetesEndpointsSchema, kubernetesSchema } from "./kubernetes-schema.ts";
import { accessSchema, modelRouteSchema, overloadSchema, retryBudgetSchema, upstreamSchema } from "./proxy-schema.ts";
import { tokenizerSchema } from "./tokenizer-schema.ts";

/*
 * The whole configuration: one schema, used to validate, to fill in defaults and to print docs/configuration.md.
 * Units are in the names. `.describe()` is what the documentation says; `form` names the form of a text in documentation and messages.
 */

const port = z.int().min(0).max(65_535);
const positiveMs = z.int().min(1);
const portNumber = "(?:[0-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
const hostPort = z
  .string()
  .regex(new RegExp(`^(?:[^\\s:\\[\\]/]+|\\[[0-9a-fA-F:.]+\\]):${portNumber}$`))
  .meta({ form: "host:port" });
const zmqAddress = z
  .string()
  .regex(new RegExp(`^(?:tcp://(?:[^\\s:\\[\\]/]+|\\[[0-9a-fA-F:.]+\\]):${portNumber}|ipc://\\S+)$`))
  .meta({ form: "tcp://host:port or ipc://path" });

export const redisSchema = z.strictObject({
  url: z
    .string()
    .regex(/^rediss?:\/\/\S+$/)
    .meta({ form: "redis://[user:password@]host[:port][/database] or rediss://..." })
    .nullable()
    .default(null)
    .describe(
      "One Redis or Valkey, e.g. redis://user:secret@host:6379/0; rediss:// for TLS. Without url, cluster and sentinel, index and registry are in the memory of one process.",
    ),
  cluster: z
    .array(hostPort.describe("A node."))
    .default([])
    .describe("Redis Cluster: some of its nodes; the others are learned from them."),
  sentinel: z
    .strictObject({
      name: z.string().min(1).nullable().default(null).describe("Name under which the Sentinels watch the primary."),
      nodes: z
        .array(hostPort.describe("A Sentinel."))
        .default([])
        .describe("The Sentinels. They are asked for the primary, and followed when it fails over."),
      username: z.string().min(1).nullable().default(null).describe("User at the Sentinels, where they ask for one."),
      password: z.string().min(1).nullable().default(null).describe("Password at the Sentinels."),
    })
    .prefault({})
    .describe("Redis behind Sentinel."),
  username: z.string().min(1).nullable().default(null).describe("User; wins over that of the URL."),
  password: z.string().min(1).nullable().default(null).describe("Password; wins over that of the URL."),
  database: z.int().min(0).max(65_535).nullable().default(null).describe("With sentinel: number of the database; null: 0."),
  tls: z
    .strictObject({
      enabled: z.boolean().default(false).describe("TLS; rediss:// and any of the files below say so as well."),
      caFile: z.string().min(1).nullable().default(null).describe("PEM file with the authorities to trust; null: those of the system."),
      certFile: z.string().min(1).nullable().default(null).describe("PEM file with this client's certificate, where Redis asks for one."),
      keyFile: z.string().min(1).nullable().default(null).describe("PEM file with the key of certFile."),
      servername: z.string().min(1).nullable().default(null).describe("Name that the server's certificate must have; null: the host's."),
    })
    .prefault({})
    .describe("TLS to Redis (and to the Sentinels)."),
  keyPrefix: z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,32}$/)
    .meta({ form: "1 to 32 letters, digits, dots, dashes or underscores" })
    .default("kva")
    .describe("First part of every key."),
  commandTimeoutMs: positiveMs.default(50).describe("Request path: a command that takes longer fails, and the request is routed by load."),
});

export const staticEndpointSchema = z.strictObject({
  address: hostPort.describe("HTTP server of the replica; also its endpoint id."),
  events: zmqAddress
    .optional()
    .describe(
      "Where the replica publishes KV events (connect mode). Without it the replica is asked (vLLM 0.31 and on, /kv_event_sources), or dials the ingester itself (ingester.bind); if neither, it is routed to by load.",
    ),
  replay: zmqAddress.optional().describe("The replica's replay socket. Without it a gap costs the endpoint's index."),
  dataParallelSize: z
    .int()
    .min(1)
    .max(1024)
    .default(1)
    .describe("Ranks behind this address; events and replay ports are offset by the rank."),
  role: z
    .enum(["prefill", "decode", "both"])
    .optional()
    .describe(
      "Part in disaggregated serving. prefill: computes prompts for replicas that decode, and gets no other requests. Without it the replica serves requests as a whole.",
    ),
});

export const poolSchema = z.strictObject({
  name: z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,64}$/)
    .meta({ form: "1 to 64 letters, digits, dots, dashes or underscores" })
    .describe("Unique name of the pool."),
  model: z.string().min(1).describe("Model name in requests; adapters served by the replicas are routed to the pool as well."),
  endpoints: z
    .strictObject({
      static: z.array(staticEndpointSchema).default([]).describe("Replicas by address."),
      kubernetes: kubernetesEndpointsSchema
        .optional()
        .describe("Replicas that are pods of a cluster; one ingester watches them for the fleet."),
    })
    .default({ static: [] })
    .describe("Where the replicas are. Replicas that dial the ingester (ingester.bind) need no entry."),
  tokenizer: tokenizerSchema.prefault({}).describe("How prompts become token ids."),
  prefixCache: z
    .strictObject({
      mode: z
        .enum(["precise", "tracking", "estimated", "estimate", "PREFIX_CACHE", "off"])
        .default("precise")
        .describe(
          "precise (alias tracking): by the cache events of the replicas. estimated (aliases estimate, PREFIX_CACHE): by what routers sent where; needs no events. off: by load alone, see router.offPolicy.",
        ),
      estimate: z
        .strictObject({
          blockTokens: z.int().min(1).max(4_096).default(64).describe("Tokens per block."),
          blockBytes: z
            .int()
            .min(16)
            .max(65_536)
            .default(256)
            .describe("Bytes of the prompt's text per block, where it cannot be tokenized; four count as a token."),
          ttlMs: positiveMs
            .max(86_400_000)
            .default(600_000)
            .describe("A replica that was not sent a block for this long no longer counts as holding it."),
          minMatchRatio: z
            .number()
            .min(0)
            .max(1)
            .default(0.5)
            .describe("The longest known part of a prompt has to be more than this for the prefix to count; else load decides."),
        })
        .prefault({})
        .describe("What routers sent where: for mode estimated, and for precise where events do not tell."),
      blockSize: z
        .union([z.literal("auto"), z.int().min(1).max(65_536)])
        .default("auto")
        .describe("Tokens per block; auto: learned from events. A contradiction is reported and the events win."),
      hashAlgo: z
        .union([z.literal("auto"), z.literal("content"), z.enum(hashAlgorithms)])
        .default("auto")
        .describe("Engine's --prefix-caching-hash-algo; auto: recognised from events; content: keys from token contents."),
      hashSeed: z.string().default("auto").describe("Engine's PYTHONHASHSEED as a string; auto: tries vllm-none-hash, 0 and 42."),
      onGap: z
        .enum(["reset", "keep"])
        .default("reset")
        .describe(
          "When events are lost for good: reset forgets what the endpoint held (exact, colder); keep goes on (warmer, may over-predict).",
        ),
      reuseReports: z
        .enum(["auto", "confirm", "count"])
        .default("auto")
        .describe(
          "Blocks stored from the root of a prompt that are held already. count: a further copy, as engines mean it. confirm: reports of reuse " +
            "(kv_cache_report_mode full, vLLM 0.26 and on), not counted. auto: count until the events show that requests use that mode.",
        ),
    })
    .prefault({})
    .describe("How cached prefixes are tracked."),
});

const scorerWeight = z.number().min(0).max(1000);

const scorersSchema = z.strictObject({
  "prefix-cache-scorer": scorerWeight.default(3).describe("Cached part of the prompt."),
  "queue-scorer": scorerWeight.default(2).describe("Short queues of the engines."),
  "kv-cache-utilization-scorer": scorerWeight.default(2).describe("KV cache that no running request uses."),
  "lora-affinity-scorer": scorerWeight.default(0).describe("Adapter already running, or a free slot for it."),
  "active-request-scorer": scorerWeight.default(0).describe("Few requests under way, of all routers."),
  "session-affinity-scorer": scorerWeight.default(0).describe("The endpoint of the session that router.sessionHeader names."),
  "no-hit-lru-scorer": scorerWeight.default(0).describe("Spreads prompts that nobody holds any part of."),
});

export const extProcSchema = z.strictObject({
  listen: hostPort
    .nullable()
    .default(null)
    .describe("Where gateways ask for endpoints (gRPC, Envoy's external processing), e.g. 0.0.0.0:9002; null: not at all."),
  health: hostPort
    .nullable()
    .default("0.0.0.0:9003")
    .describe("gRPC health checks without TLS, as kubelets ask them; the port above answers them as well. null: only there."),
  tls: z
    .strictObject({
      mode: z
        .enum(["self-signed", "files", "off"])
        .default("self-signed")
        .describe("self-signed: a certificate of its own, which gateways do not check. files: certFile and keyFile. off: plaintext."),
      certFile: z.string().min(1).nullable().default(null).describe("files: PEM file with the certificate; read again when it changes."),
      keyFile: z.string().min(1).nullable().default(null).describe("files: PEM file with its key."),
    })
    .prefault({})
    .describe("TLS on the port that gateways ask."),
  bodyMode: z
    .enum(["auto", "duplex", "buffered", "streamed"])
    .default("auto")
    .describe(
      "How the gateway hands over request bodies; auto: as it says itself, else duplex. In streamed mode there is no body to decide by: load decides.",
    ),
  maxEndpoints: z
    .int()
    .min(1)
    .max(8)
    .default(1)
    .describe(
      "Endpoints named per request: the picked one, then where to go when it fails. More than 1 only for gateways that read lists.",
    ),
  pickTimeoutMs: positiveMs
    .default(100)
    .describe("On top of what tokenization may take; past it the endpoint is picked by load. Gateways wait without a limit of their own."),
  maxMessageBytes: z
    .int()
    .min(65_536)
    .max(2_147_483_647)
    .default(67_108_864)
    .describe("Largest message from a gateway: some hand over a whole body in one."),
  drainDelayMs: z
    .int()
    .min(0)
    .max(600_000)
    .default(5_000)
    .describe("On SIGTERM, how long requests are taken on while health checks say NOT_SERVING already; at most half of drainTimeoutMs."),
});

export const routerSchema = z.strictObject({
  listen: hostPort.default("0.0.0.0:8080").describe("OpenAI-compatible proxy and /kvatlas API."),
  admin: hostPort.default("0.0.0.0:9090").describe("/livez, /readyz, /metrics; keep it off the public network."),
  policy: z
    .enum(["cost", "weighted"])
    .default("cost")
    .describe("How load and cached prefixes are weighed. cost: by what the request would cost there. weighted: by router.scorers."),
  scorers: scorersSchema
    .prefault({})
    .describe("weighted policy: weight of each scorer, 0 for none. Names and defaults are those of llm-d's router."),
  sessionHeader: z
    .string()
    .regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$/)
    .meta({ form: "name of an HTTP header" })
    .default("x-session-id")
    .describe("Request header that names the client's session, for session-affinity-scorer."),
  missFactor: z
    .number()
    .min(0)
    .max(100)
    .default(4)
    .describe("cost policy: what an uncached token costs against a token already queued; a miss also evicts, hence above 1."),
  decodeFactor: z
    .number()
    .min(0)
    .max(10_000)
    .default(800)
    .describe(
      "cost policy: queued-prefill-token equivalents per running or waiting request: what its decoding costs everybody there, in first tokens that come later and answers that do.",
    ),
  mediumWeights: z
    .strictObject({
      gpu: z.number().min(0).max(1).default(1).describe("A token in GPU memory."),
      cpu: z.number().min(0).max(1).default(0.8).describe("A token in CPU memory: has to be copied back."),
      storage: z.number().min(0).max(1).default(0.5).describe("A token in a file or object store."),
      other: z.number().min(0).max(1).default(0.5).describe("A token in a medium this release does not know."),
    })
    .prefault({})
    .describe("Worth of a matched token by the medium it is in."),
  offPolicy: z.enum(["least-request", "round-robin", "random"]).default("least-request").describe("Policy of pools with mode off."),
  lookup: z.enum(["probe", "exact"]).default("probe").describe("probe: O(log n) reads; exact: reads every key."),
  verifySampleRate: z.number().min(0).max(1).default(0.001).describe("Fraction of lookups checked against an exact one in the background."),
  tokenizeTimeoutMs: positiveMs.default(25).describe("Past it, and past the share for the body's size, the request is routed by load."),
  tokenizeTimeoutMsPerKiB: z
    .number()
    .min(0)
    .max(1_000)
    .default(1)
    .describe("Added to tokenizeTimeoutMs for each KiB of the body: what a long prompt's prefix is worth grows with it as well."),
  renderTimeoutMs: z
    .int()
    .min(0)
    .max(600_000)
    .default(1_000)
    .describe(
      "How long a replica may take to say which tokens a prompt has that only engines can encode: images, audio, video, and requests to /v1/messages and /v1/responses with more than texts. Needs tokenizer.source auto or remote, and replicas with render endpoints. 0: they are not asked, and such requests are routed by estimate or load.",
    ),
  lookupTimeoutMs: positiveMs.default(10).describe("Past it the request is routed by estimate or load."),
  speculationMs: z
    .int()
    .min(0)
    .max(60_000)
    .default(3_000)
    .describe(
      "precise: how long the picked replica counts as holding the prompt that was sent to it, until its events say so; 0: not at all.",
    ),
  maxBodyBytes: z.int().min(1024).default(33_554_432).describe("Larger bodies are answered 413."),
  connectTimeoutMs: positiveMs.default(2_000).describe("To a replica; then another one is tried."),
  firstByteTimeoutMs: positiveMs.default(86_400_000).describe("From the request sent to the first byte of the answer."),
  idleTimeoutMs: positiveMs
    .default(600_000)
    .describe("Longest pause within an answer, be it the replica that does not send or the client that does not read; then it is cut."),
  totalTimeoutMs: positiveMs.default(86_400_000).describe("From the request sent to the end of the answer."),
  maxAttempts: z.int().min(1).max(5).default(2).describe("Replicas tried before the first byte of an answer."),
  retryBudget: retryBudgetSchema.prefault({}).describe("How many second attempts all requests together may have."),
  models: z.array(modelRouteSchema).default([]).describe("Names of models besides those of the pools: aliases, rewrites, splits."),
  access: accessSchema.prefault({}).describe("API keys of clients."),
  upstream: upstreamSchema.prefault({}).describe("What the router is to replicas."),
  disaggregation: disaggregationSchema.prefault({}).describe("Prefill and decoding on different replicas, in pools that have both (role)."),
  overload: overloadSchema.prefault({}).describe("What happens when there is too much; off unless enabled."),
  extProc: extProcSchema.prefault({}).describe("Endpoint picker for gateways (Gateway API Inference Extension); see docs/gateway.md."),
  responseHeaders: z.boolean().default(true).describe("Send x-kvatlas-endpoint, x-kvatlas-matched-tokens and x-kvatlas-mode."),
  decisionHeader: z
    .boolean()
    .default(false)
    .describe("Send x-kvatlas-decision: mode, reason and the three best endpoints with what their scores are made of."),
  endpointTtlMs: positiveMs
    .default(15_000)
    .describe(
      "An endpoint without a sign of life from its ingester for this long no longer counts as ready, unless it is configured statically.",
    ),
  drainTimeoutMs: positiveMs.default(30_000).describe("On SIGTERM, how long running answers may take."),
});

export const ingesterSchema = z.strictObject({
  admin: hostPort.default("0.0.0.0:9091").describe("/livez, /readyz, /metrics."),
  bind: zmqAddress
    .nullable()
    .default(null)
    .describe("Bind mode: replicas dial this address, e.g. tcp://*:5557; who they are is read from the topic kv@<ip[:port]>@<model>."),
  bindHttpPort: port.default(8000).describe("Bind mode: HTTP port of replicas whose topic names none."),
  bindReplayPort: port
    .nullable()
    .default(null)
    .describe("Bind mode: replay port at the topic's ip; null: asked from the replica (/kv_event_sources), else no replay."),
  instanceId: z.string().nullable().default(null).describe("Unique name; null: host name, pid and a random part."),
  leaseTtlMs: positiveMs.default(3_000).describe("How long an endpoint stays with a silent ingester."),
  heartbeatMs: positiveMs.default(1_000).describe("Beat of instances, leases and endpoints."),
  scrapeIntervalMs: positiveMs.default(500).describe("How often /metrics and /health of each endpoint are read."),
  hungAfterMs: positiveMs
    .default(20_000)
    .describe(
      "An engine that has requests and gets nothing done for this long, while its health check is fine, counts as hung: not ready.",
    ),
  flushIntervalMs: z
    .int()
    .min(0)
    .default(0)
    .describe(
      "How long small batches of one endpoint wait for more. What comes while a write is under way is written together in any case, and engines' steps are further apart than writes take.",
    ),
  maxBatchOps: z.int().min(1).max(5_000).default(500).describe("Block operations per script call."),
  maxQueuedBytes: z
    .int()
    .min(65_536)
    .default(67_108_864)
    .describe("Undecoded events per endpoint; past it the newest are dropped and replayed later."),
  replayTimeoutMs: positiveMs.default(2_000).describe("Silence after which a replay is asked again on a fresh socket."),
});

export const housekeepingSchema = z.strictObject({
  purgeIntervalMs: positiveMs
    .default(10_000)
    .describe("How often somebody looks whether dead entries are to be reclaimed, and goes on reclaiming."),
  purgeBlocksPerSecond: z
    .int()
    .min(1)
    .max(1_000_000)
    .default(20_000)
    .describe("Blocks examined per second while reclaiming, at most. Slows down by itself while Redis is busy."),
  departedAfterMs: positiveMs
    .default(60_000)
    .describe("A replica without a sign of life for this long, which nobody looks after and nobody has configured, is forgotten."),
  auditIntervalMs: positiveMs
    .default(300_000)
    .describe("How often a sample of the index is checked against the registry and the replicas."),
  auditSampleBlocks: z
    .int()
    .min(0)
    .max(1_000_000)
    .default(5_000)
    .describe("Blocks per scope that an audit looks at; it goes on where the last one ended."),
  truthPath: z
    .string()
    .regex(/^\/\S*$/)
    .meta({ form: "path of a URL" })
    .nullable()
    .default(null)
    .describe(
      "Path at which replicas show what they hold, which audits compare with the index: /sim/blocks for simulators; engines have none.",
    ),
});

export const logSchema = z.strictObject({
  level: z.enum(["silent", "error", "warn", "info", "debug", "trace"]).default("info").describe("Lowest level that is logged."),
});

export const configSchema = z.strictObject({
  redis: redisSchema.prefault({}).describe("Where index and registry are kept."),
  pools: z.array(poolSchema).default([]).describe("Replicas that serve the same model."),
  router: routerSchema.prefault({}).describe("The router service."),
  ingester: ingesterSchema.prefault({}).describe("The ingester service."),
  kubernetes: kubernetesSchema.prefault({}).describe("How the API server is reached, for pools with endpoints.kubernetes."),
  housekeeping: housekeepingSchema.prefault({}).describe("What ingesters do besides: one schedule for all of them, kept in Redis."),
  log: logSchema.prefault({}).describe("JSON lines on stdout."),
});

/** Validated, with every default filled in, deeply frozen. */
export type KvatlasConfig = z.output<typeof configSchema>;
export type PoolConfig = z.output<typeof poolSchema>;
export type RouterConfig = z.output<typeof routerSchema>;
export type ModelRouteConfig = z.output<typeof modelRouteSchema>;
export type IngesterConfig = z.output<typeof ingesterSchema>;
export type HousekeepingConfig = z.output<typeof housekeepingSchema>;
type RedisSection = z.output<typeof redisSchema>;
/** The section `redis`. What is left out is as if it were not configured. */
export type RedisConfig = Pick<RedisSection, "url" | "keyPrefix" | "commandTimeoutMs"> &
  Partial<Omit<RedisSection, "url" | "keyPrefix" | "commandTimeoutMs">>;
