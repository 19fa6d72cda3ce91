import { describe, expect, it } from "vitest";
import { isKvatlasError } from "../errors.ts";
import { loadConfig } from "./load.ts";

function load(text: string, env: Record<string, string> = {}) {
  return loadConfig({ file: { name: "kvatlas.yaml", text }, env });
}

function problemsOf(text: string, env: Record<string, string> = {}): string {
  try {
    load(text, env);
  } catch (error) {
    if (isKvatlasError(error, "KVATLAS_CONFIG_INVALID")) return error.message;
    throw error;
  }
  throw new Error("the configuration is valid");
}

describe("loadConfig", () => {
  it("fills in every default from nothing", () => {
    const { config, warnings } = loadConfig({});
    expect(warnings).toEqual([]);
    expect(config.router.listen).toBe("0.0.0.0:8080");
    expect(config.redis).toMatchObject({
      url: null,
      cluster: [],
      sentinel: { name: null, nodes: [] },
      keyPrefix: "kva",
      commandTimeoutMs: 50,
    });
    expect(config.router.mediumWeights.cpu).toBe(0.8);
  });

  it("reads YAML and lets the environment win", () => {
    const { config } = load("redis: { url: redis://file:6379 }\nrouter:\n  missFactor: 2\npools:\n  - { name: a, model: m }\n", {
      KVATLAS_REDIS_URL: "redis://env:6379/1",
      KVATLAS_ROUTER_LISTEN: "[::1]:0",
      KVATLAS_ROUTER_RESPONSE_HEADERS: "false",
      KVATLAS_ROUTER_MEDIUM_WEIGHTS_CPU: "0.25",
      KVATLAS_INGESTER_BIND: "tcp://*:5557",
      KVATLAS_INGESTER_BIND_REPLAY_PORT: "null",
      KVATLAS_LOG_LEVEL: "",
    });
    expect(config.redis.url).toBe("redis://env:6379/1");
    expect(config.router).toMatchObject({ listen: "[::1]:0", missFactor: 2, responseHeaders: false, mediumWeights: { cpu: 0.25, gpu: 1 } });
    expect(config.ingester).toMatchObject({ bind: "tcp://*:5557", bindReplayPort: null });
    expect(config.log.level).toBe("info");
  });

  it("reads lists from the environment as YAML or JSON", () => {
    const pools = [{ name: "qwen", model: "Qwen/Qwen3-32B", endpoints: { static: [{ address: "10.0.0.1:8000" }] } }];
    const { config } = loadConfig({ env: { KVATLAS_POOLS: JSON.stringify(pools) } });
    expect(config.pools[0]?.endpoints.static[0]).toEqual({ address: "10.0.0.1:8000", dataParallelSize: 1 });
    expect(loadConfig({ env: { KVATLAS_POOLS: "- { name: a, model: m }" } }).config.pools[0]?.model).toBe("m");
  });

  it("takes a section whose lines are commented out as the defaults", () => {
    expect(load("router:\n  # listen: x\npools:\n  - { name: a, model: m, tokenizer: }\n").config.pools[0]?.tokenizer.maxQueue).toBe(256);
  });

  it("freezes the result deeply", () => {
    const { config } = load("pools: [{ name: a, model: m }]");
    expect(Object.isFrozen(config) && Object.isFrozen(config.router.mediumWeights) && Object.isFrozen(config.pools[0]?.tokenizer)).toBe(
      true,
    );
  });

  it("reports every problem at once: where, what was got, what is allowed, the nearest name", () => {
    const text = `
rooter: {}
redis: { url: http://user:secret@host }
router: { missFactor: -1, lisen: "x", offPolicy: randm, maxAttempts: 2.5, listen: "0.0.0.0" }
ingester: 5
log: [1]
pools:
  - { model: m, zebra: 1, prefixCache: { blockSize: foo, hashSeed: 42 }, endpoints: { static: [{ address: "a:99999", events: "tpc://x" }] } }
`;
    expect(problemsOf(text, { KVATLAS_ROUTER_LOOKUP: "fast" })).toMatchInlineSnapshot(`
      "16 problems in kvatlas.yaml:
        - redis.url: got "http://***@host", expected redis://[user:password@]host[:port][/database] or rediss://... or null.
        - pools[0].name: missing; expected 1 to 64 letters, digits, dots, dashes or underscores.
        - pools[0].endpoints.static[0].address: got "a:99999", expected host:port.
        - pools[0].endpoints.static[0].events: got "tpc://x", expected tcp://host:port or ipc://path.
        - pools[0].prefixCache.blockSize: got "foo", expected auto or whole number from 1 to 65536.
        - pools[0].prefixCache.hashSeed: got 42, expected text. Write it in quotes: "42".
        - pools[0].zebra: unknown key. Known keys: name, model, endpoints, tokenizer, prefixCache.
        - router.listen: got "0.0.0.0", expected host:port.
        - router.missFactor: got -1, expected number from 0 to 100.
        - router.offPolicy: got "randm", expected least-request, round-robin or random. Did you mean "random"?
        - KVATLAS_ROUTER_LOOKUP (router.lookup): got "fast", expected probe or exact.
        - router.maxAttempts: got 2.5, expected whole number from 1 to 5.
        - router.lisen: unknown key. Did you mean "listen"?
        - ingester: got 5, expected map of admin, bind, bindHttpPort, bindReplayPort, instanceId, leaseTtlMs, heartbeatMs, scrapeIntervalMs, hungAfterMs, flushIntervalMs, maxBatchOps, maxQueuedBytes, replayTimeoutMs.
        - log: got a list of 1, expected map of level.
        - rooter: unknown key. Did you mean "router"?"
    `);
  });

  it("takes one Redis in one of three forms, with TLS, from file and environment", () => {
    const { redis } = load("redis: { sentinel: { name: mymaster, nodes: [a:26379, b:26379] }, tls: { caFile: /etc/ca.pem } }", {
      KVATLAS_REDIS_PASSWORD: "secret",
      KVATLAS_REDIS_TLS_SERVERNAME: "redis.internal",
    }).config;
    expect(redis.sentinel).toMatchObject({ name: "mymaster", nodes: ["a:26379", "b:26379"] });
    expect(redis).toMatchObject({ password: "secret", tls: { enabled: false, caFile: "/etc/ca.pem", servername: "redis.internal" } });
    expect(loadConfig({ env: { KVATLAS_REDIS_CLUSTER: "[a:7000, b:7001]" } }).config.redis.cluster).toEqual(["a:7000", "b:7001"]);
    expect(
      problemsOf(
        "redis: { url: redis://a, cluster: [b:7000, c], sentinel: { name: m, username: u }, username: u, database: 3, tls: { keyFile: k } }",
      ),
    ).toContain('redis.cluster[1]: got "c", expected host:port.');
    expect(
      problemsOf(
        "redis: { url: redis://a, cluster: [b:7000], sentinel: { name: m, username: u }, username: u, database: 3, tls: { keyFile: k } }",
      ),
    ).toMatchInlineSnapshot(`
      "6 problems in kvatlas.yaml:
        - redis.url and redis.cluster: both set; name one Redis.
        - redis.sentinel.nodes: missing; name the Sentinels, e.g. [sentinel-0:26379].
        - redis.password: missing; redis.username needs one.
        - redis.sentinel.password: missing; redis.sentinel.username needs one.
        - redis.tls.certFile: missing; redis.tls.keyFile needs it.
        - redis.database: only with redis.sentinel; a URL names its database at the end, a cluster has one."
    `);
  });

  it("names contradictions between settings", () => {
    const text = `
ingester: { leaseTtlMs: 1000 }
pools:
  - { name: a, model: m, tokenizer: { source: local }, endpoints: { static: [{ address: "h:1", events: "tcp://h:2" }, { address: "h:1", replay: "tcp://h:3" }] } }
  - { name: a, model: m, endpoints: { static: [{ address: "i:1", events: "tcp://h:2" }] } }
`;
    expect(problemsOf(text)).toMatchInlineSnapshot(`
      "7 problems in kvatlas.yaml:
        - pools[1].name: "a" is also pools[0].name; names of pools are unique.
        - pools[1].model: "m" is also pools[0].model; requests for a model go to one pool, so list its replicas in that pool.
        - pools[0].endpoints.static[1].address: "h:1" is also pools[0].endpoints.static[0].address; every replica has its own.
        - pools[1].endpoints.static[0].events: "tcp://h:2" is also pools[0].endpoints.static[0].events; every replica has its own.
        - pools[0].endpoints.static[1].replay: set without events and without ingester.bind; name the address where the replica publishes its events.
        - pools[0].tokenizer.path: missing; source local needs the directory of the tokenizer, or tokenizer.repository, its model on the hub.
        - ingester.leaseTtlMs: got 1000, expected at least twice ingester.heartbeatMs (1000), so that one late beat loses no endpoint."
    `);
  });

  it.each(["a: [", "a: 1\na: 2", "- 1", "just text", "a: *b", `${"[".repeat(20_000)}`])(
    "refuses text that is no map in YAML: %.20s",
    (text) => {
      expect(problemsOf(text)).toContain("in kvatlas.yaml");
    },
  );

  it("does not repeat secrets", () => {
    expect(problemsOf("", { KVATLAS_REDIS_URL: "user:secret@host:6379" })).not.toContain("secret");
    expect(problemsOf("redis: { url: 'http://:p@ss/w@host' }")).not.toContain("p@ss");
  });

  it("is not confused by keys of Object.prototype", () => {
    expect(problemsOf("__proto__: { url: 1 }\nconstructor: 1")).toContain("constructor: unknown key");
  });

  it("warns about unknown variables of ours, with the nearest, and about nothing else", () => {
    const { warnings } = loadConfig({
      env: {
        KVATLAS_REDIS_URI: "x",
        KVATLAS_ZEBRA: "x",
        KVATLAS_TEST_REDIS_URL: "x",
        KVATLAS_ENVOY: "x",
        KVATLAS_CONFIG: "x",
        KVATLAS_ROUTER_PORT: "tcp://10.0.0.1:8080",
        KVATLAS_ROUTER_SERVICE_HOST: "10.0.0.1",
        KVATLAS_ROUTER_SERVICE_PORT_HTTP: "8080",
        KVATLAS_ROUTER_PORT_8080_TCP_ADDR: "10.0.0.1",
        PATH: "x",
      },
    });
    expect(warnings).toEqual([
      "environment variable KVATLAS_REDIS_URI is not a setting and is ignored. Did you mean KVATLAS_REDIS_URL?",
      "environment variable KVATLAS_ZEBRA is not a setting and is ignored.",
    ]);
  });

  it("reports environment values that cannot be read", () => {
    expect(problemsOf("", { KVATLAS_POOLS: "[{" })).toContain("KVATLAS_POOLS: not valid YAML or JSON");
  });
});
