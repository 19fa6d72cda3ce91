import { createAdminServer } from "@kvatlas/shared/admin-server";
import { isKvatlasError } from "@kvatlas/shared/errors";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { afterEach, describe, expect, it } from "vitest";

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()));
});

async function started(reasons: readonly string[] = [], listen = "127.0.0.1:0") {
  const server = createAdminServer(
    { registry: createMetricsRegistry("test", { processMetrics: false }), logger: silentLogger, readiness: () => reasons },
    { listen, setting: "router.admin" },
  );
  closers.push(() => server.close());
  await server.start();
  return server;
}

async function get(address: string | null, path: string, method = "GET") {
  const response = await fetch(`http://${address}${path}`, { method });
  return { status: response.status, type: response.headers.get("content-type"), text: await response.text() };
}

describe("admin server", () => {
  it("is live while it answers", async () => {
    expect(await get((await started()).address, "/livez")).toMatchObject({ status: 200, text: '{"live":true}\n' });
  });

  it("is ready without reasons against it, and says them otherwise", async () => {
    expect(await get((await started()).address, "/readyz")).toMatchObject({ status: 200, text: '{"ready":true,"reasons":[]}\n' });
    expect(await get((await started(["Redis does not answer"])).address, "/readyz?verbose")).toMatchObject({
      status: 503,
      text: '{"ready":false,"reasons":["Redis does not answer"]}\n',
    });
  });

  it("serves the metrics of its registry", async () => {
    const { status, type, text } = await get((await started()).address, "/metrics");
    expect(status).toBe(200);
    expect(type).toContain("text/plain; version=0.0.4");
    expect(text).toContain('kvatlas_service_info{service="test"');
  });

  it("answers 404 and 405 to anything else", async () => {
    const { address } = await started();
    expect((await get(address, "/")).status).toBe(404);
    expect((await get(address, "/livez", "POST")).status).toBe(405);
  });

  it("names the setting when the port is in use", async () => {
    const { address } = await started();
    const error = await started([], address ?? "").then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(isKvatlasError(error, "KVATLAS_PORT_IN_USE")).toBe(true);
    expect(String(error)).toContain("(router.admin): the port is in use.");
  });

  it("frees its port on close, also when called twice", async () => {
    const server = await started();
    await Promise.all([server.close(), server.close()]);
    await expect(get(server.address, "/livez")).rejects.toThrow();
  });
});
