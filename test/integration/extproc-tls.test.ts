import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect } from "node:tls";
import { credentials } from "@grpc/grpc-js";
import { createLogger } from "@kvatlas/shared/logger";
import { afterEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { type GatewayStream, metadataDestination, modeNumbers, postHead, TestGateway } from "../support/gateway-stream.ts";
import { rigModel, startRig } from "../support/router-rig.ts";
import { certificateName, makeTestCertificates, type TestCertificates } from "../support/test-certificates.ts";

const closers: (() => Promise<unknown> | unknown)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function certificates(): Promise<TestCertificates> {
  const made = await makeTestCertificates();
  closers.push(() => made.remove());
  return made;
}

/** A folder as a kubelet mounts a Secret: names that lead through `..data` to the version of the day. */
class SecretVolume {
  readonly folder: string;
  #version = 0;

  constructor(folder: string) {
    this.folder = folder;
  }

  get certFile(): string {
    return join(this.folder, "tls.crt");
  }

  get keyFile(): string {
    return join(this.folder, "tls.key");
  }

  /** Puts other files in place of all there are, in one step. */
  async swap(files: Readonly<Record<string, Buffer | string>>): Promise<void> {
    this.#version += 1;
    const version = `..version-${this.#version}`;
    await mkdir(join(this.folder, version));
    for (const [name, content] of Object.entries(files)) await writeFile(join(this.folder, version, name), content);
    await symlink(version, join(this.folder, "..data_tmp"));
    await rename(join(this.folder, "..data_tmp"), join(this.folder, "..data"));
    if (this.#version > 1) return;
    for (const name of Object.keys(files)) await symlink(join("..data", name), join(this.folder, name));
  }
}

async function startVolume(first: TestCertificates): Promise<SecretVolume> {
  const volume = new SecretVolume(await mkdtemp(join(tmpdir(), "kvatlas-secret-")));
  closers.push(() => rm(volume.folder, { recursive: true, force: true }));
  await volume.swap(await filesOf(first));
  return volume;
}

async function filesOf({ server }: TestCertificates): Promise<{ readonly "tls.crt": Buffer; readonly "tls.key": Buffer }> {
  return { "tls.crt": await readFile(server.certFile), "tls.key": await readFile(server.keyFile) };
}

/** Fingerprint of the certificate that a client gets which trusts one authority and no other. */
async function presented(address: string, trusts: TestCertificates): Promise<string> {
  const [host = "", port = ""] = address.split(":");
  const socket = connect({
    host,
    port: Number(port),
    ca: await readFile(trusts.caFile),
    servername: certificateName,
    ALPNProtocols: ["h2"],
  });
  try {
    await once(socket, "secureConnect");
    return socket.getPeerCertificate().fingerprint256;
  } finally {
    socket.destroy();
  }
}

async function fingerprintOf({ server }: TestCertificates): Promise<string> {
  return new X509Certificate(await readFile(server.certFile)).fingerprint256;
}

/** A gateway that verifies the picker's certificate. */
async function gatewayFor(address: string, trusts: TestCertificates): Promise<TestGateway> {
  const gateway = new TestGateway(address, credentials.createSsl(await readFile(trusts.caFile)), certificateName);
  closers.push(() => gateway.close());
  return gateway;
}

const changes = (result: string): string => `kvatlas_extproc_certificate_changes_total{result="${result}"}`;
const expiry = 'kvatlas_extproc_certificate_expiry_timestamp_seconds{source="files"}';

describe("the endpoint picker's certificate", () => {
  it("is renewed without a restart, when all of it is there, and streams that are open go on", async () => {
    const [first, second] = [await certificates(), await certificates()];
    const volume = await startVolume(first);
    const log: string[] = [];
    const logger = createLogger({ service: "test", destination: { write: (line) => log.push(line) } });
    const rig = await startRig({
      endpoints: ["192.168.1.1:8000"],
      logger,
      router: {
        drainTimeoutMs: 1_000,
        extProc: {
          listen: "127.0.0.1:0",
          health: null,
          drainDelayMs: 0,
          tls: { mode: "files", certFile: volume.certFile, keyFile: volume.keyFile },
        },
      },
    });
    closers.push(() => rig.router.close());
    const address = rig.router.extProcAddress ?? "";
    const before = await gatewayFor(address, first);
    expect(await before.check("readiness")).toBe(1);
    expect(await presented(address, first)).toBe(await fingerprintOf(first));
    const expiresAt = async ({ server }: TestCertificates) =>
      Date.parse(new X509Certificate(await readFile(server.certFile)).validTo) / 1_000;
    expect(await rig.metric(expiry)).toBe(await expiresAt(first));
    const protocolConfig = { requestBodyMode: modeNumbers.buffered, responseBodyMode: modeNumbers.none };
    const open: GatewayStream = before.open().send(postHead({}, { protocolConfig }));
    await open.next();

    // Half of a certificate, then all of it beside a key of another.
    const files = await filesOf(second);
    const half = files["tls.crt"].subarray(0, files["tls.crt"].length / 2);
    await volume.swap({ "tls.crt": half, "tls.key": files["tls.key"] });
    await eventually(async () => expect(await rig.metric(changes("refused"))).toBeGreaterThanOrEqual(1));
    expect(await presented(address, first)).toBe(await fingerprintOf(first));
    const refused = await rig.metric(changes("refused"));
    await volume.swap({ "tls.crt": files["tls.crt"], "tls.key": (await filesOf(first))["tls.key"] });
    await eventually(async () => expect(await rig.metric(changes("refused"))).toBeGreaterThan(refused));
    expect(await presented(address, first)).toBe(await fingerprintOf(first));
    expect(await rig.metric(changes("used"))).toBe(0);
    expect(log.join("")).toContain("changed certificate cannot be used: the one before stays in force");

    await volume.swap(files);
    await eventually(async () => expect(await presented(address, second)).toBe(await fingerprintOf(second)));
    await expect(presented(address, first)).rejects.toThrow(/certificate/);
    expect(await (await gatewayFor(address, second)).check("readiness")).toBe(1);
    expect(await rig.metric(changes("used"))).toBeGreaterThanOrEqual(1);
    expect(await rig.metric(expiry)).toBe(await expiresAt(second));
    expect(log.join("")).toContain("certificate read again");

    open.send({ requestBody: { body: Buffer.from(JSON.stringify({ model: rigModel, prompt: "x", max_tokens: 1 })), endOfStream: true } });
    expect(metadataDestination(await open.next())).toBe("192.168.1.1:8000");
  });

  it("may also be written over in place", async () => {
    const [first, second] = [await certificates(), await certificates()];
    const folder = await mkdtemp(join(tmpdir(), "kvatlas-certificate-"));
    closers.push(() => rm(folder, { recursive: true, force: true }));
    const [certFile, keyFile] = [join(folder, "tls.crt"), join(folder, "tls.key")];
    const put = async ({ server }: TestCertificates) => {
      await copyFile(server.keyFile, keyFile);
      await copyFile(server.certFile, certFile);
    };
    await put(first);
    const rig = await startRig({
      endpoints: ["192.168.1.1:8000"],
      router: { extProc: { listen: "127.0.0.1:0", health: null, drainDelayMs: 0, tls: { mode: "files", certFile, keyFile } } },
    });
    closers.push(() => rig.router.close());
    const address = rig.router.extProcAddress ?? "";
    expect(await presented(address, first)).toBe(await fingerprintOf(first));
    await put(second);
    await eventually(async () => expect(await presented(address, second)).toBe(await fingerprintOf(second)));
  });

  it("has to be there and fit its key when the router starts", async () => {
    const [first, second] = [await certificates(), await certificates()];
    const start = (certFile: string, keyFile: string) =>
      startRig({
        endpoints: ["192.168.1.1:8000"],
        router: { extProc: { listen: "127.0.0.1:0", health: null, tls: { mode: "files", certFile, keyFile } } },
      });
    await expect(start(first.server.certFile, second.server.keyFile)).rejects.toThrow("the key is not that of the certificate");
    await expect(start("/nowhere/tls.crt", second.server.keyFile)).rejects.toThrow(/cannot use \/nowhere\/tls\.crt/);
  });
});
