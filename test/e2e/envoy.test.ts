import { once } from "node:events";
import { Agent, type ClientRequest, request as httpRequest, type IncomingMessage } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { text } from "node:stream/consumers";
import { afterEach, describe, expect, it } from "vitest";
import { runTool } from "../support/deploy-tools.ts";
import {
  clusterOf,
  type EnvoyOptions,
  envoyHint,
  findEnvoy,
  httpManagerOf,
  processingModeOf,
  type RunningEnvoy,
  startEnvoy,
} from "../support/envoy.ts";
import { eventually } from "../support/eventually.ts";
import { answerOk, type HttpUpstream, startUpstream, type UpstreamHandler } from "../support/http-upstream.ts";
import { promptOf, type Rig, type RigOptions, rigModel, startRig } from "../support/router-rig.ts";
import { certificateName, makeTestCertificates, type TestCertificates } from "../support/test-certificates.ts";

const closers: (() => Promise<unknown> | unknown)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Bed {
  readonly rig: Rig;
  readonly envoy: RunningEnvoy;
  readonly upstreams: readonly HttpUpstream[];
}

interface BedOptions {
  readonly handler?: UpstreamHandler;
  readonly replicas?: number;
  readonly router?: RigOptions["router"];
  readonly extProc?: object;
  readonly envoy?: Partial<EnvoyOptions>;
}

/** Replicas whose answers the test writes, a router, and Envoy between them. */
async function startBed(options: BedOptions = {}): Promise<Bed> {
  const upstreams: HttpUpstream[] = [];
  for (let i = 0; i < (options.replicas ?? 2); i++) {
    const upstream = await startUpstream(options.handler ?? answerOk);
    closers.push(() => upstream.kill());
    upstreams.push(upstream);
  }
  const replicas = upstreams.map(({ address }) => address);
  const extProc = { listen: "127.0.0.1:0", health: null, drainDelayMs: 0, ...options.extProc };
  const rig = await startRig({ endpoints: replicas, routerId: "picker", router: { drainTimeoutMs: 2_000, ...options.router, extProc } });
  closers.push(() => rig.router.close());
  const envoy = await startEnvoy({ replicas, pickers: [rig.router.extProcAddress ?? ""], ...options.envoy });
  closers.push(() => envoy.stop());
  await eventually(async () => expect(await envoy.healthyPickers()).toBe(1));
  return { rig, envoy, upstreams };
}

/** For what takes a second or two of two cores, should others have them. */
const busyMs = 90_000;
const json = { "content-type": "application/json" };
const completion = (more: object = {}): string => JSON.stringify({ model: rigModel, prompt: "x", max_tokens: 4, ...more });

function post(envoy: RunningEnvoy, body: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
  return fetch(`${envoy.url}/v1/completions`, { method: "POST", headers: { ...json, ...headers }, body });
}

/** A request whose answer is read as it comes. */
async function streamFrom(
  envoy: RunningEnvoy,
  body: string,
  agent?: Agent,
): Promise<{ request: ClientRequest; response: IncomingMessage }> {
  const request = httpRequest(`${envoy.url}/v1/completions`, { method: "POST", headers: json, ...(agent === undefined ? {} : { agent }) });
  request.on("error", () => {});
  request.end(body);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  return { request, response };
}

async function underWay(rig: Rig): Promise<number> {
  const { inflight } = await rig.registry.readLoad(["picker"]);
  return [...inflight.values()].reduce((sum, { requests }) => sum + requests, 0);
}

const duplex = { request_body_mode: "FULL_DUPLEX_STREAMED", request_trailer_mode: "SEND", response_trailer_mode: "SEND" };
const variants: readonly (readonly [string, EnvoyOptions["change"]])[] = [
  ["as shipped", undefined],
  ["with answers streamed", (bootstrap) => Object.assign(processingModeOf(bootstrap), { response_body_mode: "STREAMED" })],
  ["with requests in full duplex", (bootstrap) => Object.assign(processingModeOf(bootstrap), duplex)],
  [
    "in full duplex both ways",
    (bootstrap) => Object.assign(processingModeOf(bootstrap), duplex, { response_body_mode: "FULL_DUPLEX_STREAMED" }),
  ],
];

describe.skipIf(findEnvoy() === null)(findEnvoy() === null ? envoyHint : "a real Envoy", () => {
  it("takes the bootstrap that is shipped", async () => {
    const { stderr, code } = await runTool(findEnvoy() ?? "", [
      "--mode",
      "validate",
      "-c",
      "deploy/envoy/standalone.yaml",
      "--use-dynamic-base-id",
    ]);
    expect(stderr).not.toMatch(/deprecated|\[warning\]/i);
    expect(code).toBe(0);
  });

  describe.each(variants)("%s", (_, change) => {
    const envoy = change === undefined ? {} : { change };

    it("sends requests where the router says, whole, whatever the client says", async () => {
      const { rig, envoy: running, upstreams } = await startBed({ envoy });
      const [first, second] = upstreams.map(({ address }) => address);
      const prompt = promptOf(4_000, 5);
      await rig.hold(second ?? "", prompt, 250);
      for (let i = 0; i < 3; i++) {
        const response = await post(running, completion({ prompt }), { "x-gateway-destination-endpoint": first ?? "" });
        expect(await response.json()).toEqual({ ok: true });
        expect(response.headers.get("x-kvatlas-endpoint")).toBe(second);
        expect(response.headers.get("x-kvatlas-mode")).toBe("precise");
      }
      expect(upstreams.map(({ requests }) => requests.length)).toEqual([0, 3]);
      expect(upstreams[1]?.requests[0]?.body.toString()).toBe(completion({ prompt }));
      expect(upstreams[1]?.requests[0]?.headers["x-gateway-destination-endpoint"]).toBe(second);
      expect(await (await fetch(`${running.url}/v1/models`)).json()).toEqual({ ok: true });
      await eventually(async () => expect(await underWay(rig)).toBe(0));
    });

    it("hands on each piece of an answer before the next is there", async () => {
      let next: () => void = () => {};
      const pieces = ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"];
      const { envoy: running, rig } = await startBed({
        envoy,
        handler: async (response) => {
          response.writeHead(200, { "content-type": "text/event-stream" });
          for (const piece of pieces) {
            const told = new Promise<void>((resolve) => {
              next = resolve;
            });
            response.write(piece);
            await told;
          }
          response.end();
        },
      });
      const { response } = await streamFrom(running, completion({ stream: true }));
      const received: string[] = [];
      for await (const piece of response) {
        received.push(String(piece));
        next();
      }
      expect(received.join("")).toBe(pieces.join(""));
      await eventually(async () => expect(await underWay(rig)).toBe(0));
      expect(await rig.metric('kvatlas_router_requests_total{outcome="completed",status="2xx"}')).toBe(1);
    });

    it("lets go of what is under way when the client leaves", async () => {
      const {
        envoy: running,
        rig,
        upstreams,
      } = await startBed({
        envoy,
        handler: (response) => {
          response.writeHead(200, { "content-type": "text/event-stream" });
          response.write("data: 1\n\n");
        },
      });
      const { request } = await streamFrom(running, completion({ stream: true }));
      await eventually(async () => expect(await underWay(rig)).toBe(1));
      request.destroy();
      await eventually(async () => expect(await underWay(rig)).toBe(0));
      await eventually(() => expect(upstreams.reduce((sum, { abandoned }) => sum + abandoned, 0)).toBe(1));
    });

    it("passes on large bodies, and other names for models", async () => {
      const models = [{ name: "alias", targets: [{ model: rigModel }] }];
      const { envoy: running, upstreams, rig } = await startBed({ envoy, router: { models } });
      const prompt = "lorem ipsum ".repeat(50_000);
      expect((await post(running, completion({ model: "alias", prompt }))).status).toBe(200);
      const received = upstreams.flatMap(({ requests }) => requests);
      expect(received.map(({ body }) => body.toString())).toEqual([completion({ prompt })]);
      await eventually(async () => expect(await underWay(rig)).toBe(0));
    });

    it("answers errors as the router words them", async () => {
      const { envoy: running } = await startBed({ envoy, router: { maxBodyBytes: 20_000 } });
      for (const [body, status] of [
        ["no JSON", 400],
        [completion({ model: "other" }), 404],
        [completion({ prompt: "x".repeat(30_000) }), 413],
      ] as const) {
        const response = await post(running, body);
        expect(response.status).toBe(status);
        expect(response.headers.get("content-type")).toBe("application/json");
        expect(await response.json()).toMatchObject({ error: { code: status } });
      }
    });
  });

  it("tells which replica has answered, when it had to try another", async () => {
    const { envoy, upstreams, rig } = await startBed({ extProc: { maxEndpoints: 2 } });
    const [first, second] = upstreams;
    const prompt = promptOf(4_000, 5);
    await rig.hold(first?.address ?? "", prompt, 250);
    await first?.kill();
    const response = await post(envoy, completion({ prompt }));
    expect(response.status).toBe(200);
    expect(response.headers.get("x-kvatlas-endpoint")).toBe(second?.address);
    expect(await rig.metric('kvatlas_extproc_served_elsewhere_total{known="true"}')).toBe(1);
    await eventually(async () => expect(await underWay(rig)).toBe(0));
  });

  it("follows the header alone (ORIGINAL_DST)", async () => {
    const { envoy, upstreams } = await startBed({
      envoy: {
        change: (bootstrap) => {
          const cluster = clusterOf(bootstrap, "model_servers");
          delete cluster.load_assignment;
          delete cluster.load_balancing_policy;
          cluster.type = "ORIGINAL_DST";
          cluster.lb_policy = "CLUSTER_PROVIDED";
          cluster.original_dst_lb_config = { use_http_header: true, http_header_name: "x-gateway-destination-endpoint" };
        },
      },
    });
    for (let i = 0; i < 4; i++) expect((await post(envoy, completion())).status).toBe(200);
    expect(upstreams.flatMap(({ requests }) => requests)).toHaveLength(4);
  });

  it("keeps to the subset that Envoy names, and refuses where nobody is in it", async () => {
    const { envoy, upstreams } = await startBed({
      replicas: 3,
      envoy: {
        change: (bootstrap) => {
          // What a route's rules would say: here the request says it.
          httpManagerOf(bootstrap).http_filters.unshift({
            name: "subset",
            typed_config: {
              "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
              request_rules: [
                {
                  header: "x-subset",
                  on_header_present: {
                    metadata_namespace: "envoy.lb.subset_hint",
                    key: "x-gateway-destination-endpoint-subset",
                    type: "STRING",
                  },
                },
              ],
            },
          });
        },
      },
    });
    const addresses = upstreams.map(({ address }) => address);
    for (const address of [...addresses, ...addresses]) {
      const response = await post(envoy, completion(), { "x-subset": address });
      expect([response.status, response.headers.get("x-kvatlas-endpoint")]).toEqual([200, address]);
    }
    expect(upstreams.map(({ requests }) => requests.length)).toEqual([2, 2, 2]);
    expect((await post(envoy, completion(), { "x-subset": "192.0.2.9:8000" })).status).toBe(503);
  });

  it("serves HTTP/2 with several threads", async () => {
    const { envoy, upstreams, rig } = await startBed({ envoy: { workers: 3 } });
    const session = connectHttp2(envoy.url);
    closers.push(() => session.destroy());
    const one = async (): Promise<string> => {
      const stream = session.request({ ":method": "POST", ":path": "/v1/completions", "content-type": "application/json" });
      stream.end(completion());
      const [headers] = (await once(stream, "response")) as [Readonly<Record<string, unknown>>];
      return `${headers[":status"]} ${await text(stream)}`;
    };
    expect(new Set(await Promise.all(Array.from({ length: 50 }, one)))).toEqual(new Set(['200 {"ok":true}']));
    expect(upstreams.reduce((sum, { requests }) => sum + requests.length, 0)).toBe(50);
    expect(await rig.metric('kvatlas_router_requests_total{outcome="completed",status="2xx"}')).toBe(50);
    expect(await envoy.stat("http.openai.ext_proc.failure_mode_allowed")).toBe(0);
    await eventually(async () => expect(await underWay(rig)).toBe(0));
  });

  it("asks a picker whose certificate it verifies, and no other", async () => {
    const [trusted, other] = [await makeTestCertificates(), await makeTestCertificates()];
    closers.push(
      () => trusted.remove(),
      () => other.remove(),
    );
    const verifying = async (certificates: TestCertificates) => {
      const upstream = await startUpstream(answerOk);
      closers.push(() => upstream.kill());
      const { certFile, keyFile } = certificates.server;
      const rig = await startRig({
        endpoints: [upstream.address],
        router: {
          drainTimeoutMs: 2_000,
          extProc: { listen: "127.0.0.1:0", health: null, drainDelayMs: 0, tls: { mode: "files", certFile, keyFile } },
        },
      });
      closers.push(() => rig.router.close());
      const envoy = await startEnvoy({
        replicas: [upstream.address],
        pickers: [rig.router.extProcAddress ?? ""],
        change: (bootstrap) => {
          const socket = clusterOf(bootstrap, "picker").transport_socket as {
            typed_config: { common_tls_context: Record<string, unknown> };
          };
          socket.typed_config.common_tls_context.validation_context = {
            trusted_ca: { filename: trusted.caFile },
            match_typed_subject_alt_names: [{ san_type: "DNS", matcher: { exact: certificateName } }],
          };
        },
      });
      closers.push(() => envoy.stop());
      return { envoy, upstream };
    };
    const known = await verifying(trusted);
    await eventually(async () => expect(await known.envoy.healthyPickers()).toBe(1));
    expect((await post(known.envoy, completion())).headers.get("x-kvatlas-endpoint")).toBe(known.upstream.address);
    const unknown = await verifying(other);
    await eventually(async () => expect(await unknown.envoy.stat("cluster.picker.ssl.fail_verify_error")).toBeGreaterThan(0));
    expect(await unknown.envoy.healthyPickers()).toBe(0);
    // Nobody to ask: it picks for itself.
    const answer = await post(unknown.envoy, completion());
    expect([answer.status, answer.headers.get("x-kvatlas-endpoint")]).toEqual([200, null]);
  });

  it("hands over trailers of requests, and the body once", async () => {
    const { envoy, upstreams } = await startBed({
      envoy: {
        change: (bootstrap) => {
          const manager = httpManagerOf(bootstrap);
          Object.assign(processingModeOf(bootstrap), duplex);
          manager.http_protocol_options = { enable_trailers: true };
          for (const host of manager.route_config.virtual_hosts) for (const { route } of host.routes) delete route.retry_policy;
        },
      },
    });
    const request = httpRequest(`${envoy.url}/v1/completions`, { method: "POST", headers: { ...json, trailer: "x-sum" } });
    request.write(completion());
    request.addTrailers({ "x-sum": "1" });
    request.end();
    const [response] = (await once(request, "response")) as [IncomingMessage];
    response.resume();
    expect(response.statusCode).toBe(200);
    expect(upstreams.flatMap(({ requests }) => requests.map(({ body }) => body.toString()))).toEqual([completion()]);
  });

  it(
    "holds a thousand streams at the same time",
    async () => {
      const streams = 1_000;
      const waiting: (() => void)[] = [];
      let released = false;
      const { envoy, rig } = await startBed({
        handler: (response) => {
          response.writeHead(200, { "content-type": "text/event-stream" });
          response.write("data: 1\n\n");
          const finish = (): void => void response.end("data: [DONE]\n\n");
          if (released) finish();
          else waiting.push(finish);
        },
      });
      const agent = new Agent({ maxSockets: streams });
      closers.push(() => agent.destroy());
      const one = async (): Promise<string> => {
        const { response } = await streamFrom(envoy, completion({ stream: true }), agent);
        let text = "";
        for await (const piece of response) text += String(piece);
        return `${response.statusCode} ${text}`;
      };
      const answers = Promise.all(Array.from({ length: streams }, one));
      // Looked at in the end; a failure before is that of what is awaited.
      answers.catch(() => {});
      await eventually(() => expect(waiting).toHaveLength(streams), busyMs);
      await eventually(async () => expect(await underWay(rig)).toBe(streams));
      expect(await rig.metric("kvatlas_extproc_open_streams")).toBe(streams);
      released = true;
      for (const finish of waiting) finish();
      expect(new Set(await answers)).toEqual(new Set(["200 data: 1\n\ndata: [DONE]\n\n"]));
      await eventually(async () => expect(await underWay(rig)).toBe(0));
      await eventually(async () => expect(await rig.metric("kvatlas_extproc_open_streams")).toBe(0));
      expect(await envoy.stat("http.openai.ext_proc.failure_mode_allowed")).toBe(0);
    },
    2 * busyMs,
  );
});
