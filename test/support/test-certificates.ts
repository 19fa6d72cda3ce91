import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

/** What the server's certificate is for, and nothing else. */
export const certificateName = "redis.test";

/** PEM files of an authority of the test's own and of what it has signed. */
export interface TestCertificates {
  readonly caFile: string;
  readonly server: { readonly certFile: string; readonly keyFile: string };
  readonly client: { readonly certFile: string; readonly keyFile: string };
  remove(): Promise<void>;
}

/** Made by the openssl program. */
export async function makeTestCertificates(): Promise<TestCertificates> {
  const folder = await mkdtemp(join(tmpdir(), "kvatlas-tls-"));
  const run = promisify(execFile);
  const openssl = (...args: string[]) => run("openssl", args, { cwd: folder, timeout: 30_000 });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  await openssl("req", "-x509", ...key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=kvatlas test CA");
  const sign = async (name: string, subject: string): Promise<{ certFile: string; keyFile: string }> => {
    await openssl("req", ...key, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${subject}`);
    await writeFile(join(folder, `${name}.ext`), `subjectAltName=DNS:${subject}\n`);
    const authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    await openssl("x509", "-req", "-in", `${name}.csr`, ...authority, "-out", `${name}.pem`, "-days", "2", "-extfile", `${name}.ext`);
    return { certFile: join(folder, `${name}.pem`), keyFile: join(folder, `${name}.key`) };
  };
  return {
    caFile: join(folder, "ca.pem"),
    server: await sign("server", certificateName),
    client: await sign("client", "client.test"),
    remove: () => rm(folder, { recursive: true, force: true }),
  };
}
