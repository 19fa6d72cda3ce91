import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../support/eventually.ts";
import { startRedisCluster } from "../support/redis-cluster.ts";
import { startRedisSentinels } from "../support/redis-sentinel.ts";
import { startKvatlas } from "../support/services.ts";

interface Finding {
  readonly check: string;
  readonly subject: string;
  readonly status: string;
  readonly message: string;
}

/** The doctor waits 3 s for each server, which a machine that is busy with other things may exceed. */
const patienceMs = 50_000;

/** What `kvatlas doctor` says of this Redis, and of nothing else: there are no pools. */
async function examined(redis: object): Promise<readonly Finding[]> {
  const folder = await mkdtemp(join(tmpdir(), "kvatlas-doctor-"));
  try {
    const config = join(folder, "kvatlas.json");
    await writeFile(config, JSON.stringify({ redis }));
    const doctor = startKvatlas(["doctor", "--config", config, "--json"]);
    await doctor.ended;
    const { verdicts } = JSON.parse(doctor.stdout) as { readonly verdicts: readonly Finding[] };
    return verdicts.filter(({ check }) => check === "redis");
  } finally {
    await rm(folder, { recursive: true });
  }
}

const problemsIn = (found: readonly Finding[]) =>
  found.flatMap(({ status, subject }) => (status === "problem" ? [subject] : [])).toSorted();

describe("kvatlas doctor", () => {
  it("looks at every server of a cluster, its replicas among them", async () => {
    const cluster = await startRedisCluster({ withReplicas: true });
    onTestFinished(() => cluster.stop());
    const servers = cluster.ports.map((port) => `127.0.0.1:${port}`);
    await eventually(async () => {
      const healthy = await examined({ cluster: cluster.nodes.slice(0, 1) });
      expect(problemsIn(healthy)).toEqual([]);
      for (const server of servers) {
        const said = healthy
          .filter(({ subject }) => subject.startsWith(`${server} `))
          .map(({ subject }) => subject.slice(server.length + 1));
        expect(said).toEqual(["version", "maxmemory-policy", "memory", "role"]);
      }
    }, patienceMs);
    await cluster.client(2).config("SET", "maxmemory-policy", "allkeys-lru");
    await cluster.client(4).config("SET", "maxmemory", String(64 * 1_048_576));
    await eventually(async () => {
      const found = problemsIn(await examined({ cluster: cluster.nodes.slice(0, 1) }));
      expect(found).toEqual([`${servers[2]} maxmemory-policy`, `${servers[4]} memory`].toSorted());
    }, patienceMs);
  }, 180_000);

  it("looks at the primary that Sentinels name, and at its replica", async () => {
    const sentinels = await startRedisSentinels();
    onTestFinished(() => sentinels.stop());
    const replica = new Redis(sentinels.replica.port, "127.0.0.1");
    onTestFinished(() => replica.disconnect());
    await replica.config("SET", "maxmemory-policy", "volatile-lru");
    await eventually(async () => {
      const found = await examined({ sentinel: { name: sentinels.name, nodes: [...sentinels.nodes] } });
      expect(problemsIn(found)).toEqual([`127.0.0.1:${sentinels.replica.port} maxmemory-policy`]);
      const roles = found.filter(({ subject }) => subject.endsWith("role")).map(({ message }) => message);
      expect(roles).toEqual(["master", "replica, in step with its primary"]);
    }, patienceMs);
  }, 180_000);
});
