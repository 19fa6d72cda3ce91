import { request as requestHttp } from "node:http";
import { request as requestHttps } from "node:https";
import { text } from "node:stream/consumers";
import type { KubeAccess } from "@kvatlas/ingester/discovery/kubernetes/kube-access";
import { eventually } from "./eventually.ts";

/** Writes to a real API server. Answers other than 2xx are errors, unless `tolerate` names them. */
export class KubeCluster {
  readonly #access: KubeAccess;

  constructor(access: KubeAccess) {
    this.#access = access;
  }

  async send(method: string, path: string, body: object | null = null, tolerate: readonly number[] = []): Promise<unknown> {
    const url = new URL(path, this.#access.server);
    const options = await this.#access.requestOptions();
    const type = method === "PATCH" ? "application/merge-patch+json" : "application/json";
    const request = (url.protocol === "http:" ? requestHttp : requestHttps)(url, {
      ...options,
      method,
      headers: { ...options.headers, "content-type": type, accept: "application/json" },
    });
    const answer = await new Promise<{ readonly status: number; readonly text: string }>((resolve, reject) => {
      request.on("error", reject);
      request.on("response", (response) => {
        text(response).then((body) => resolve({ status: response.statusCode ?? 0, text: body }), reject);
      });
      request.end(body === null ? undefined : JSON.stringify(body));
    });
    const isFine = (answer.status >= 200 && answer.status < 300) || tolerate.includes(answer.status);
    if (!isFine) throw new Error(`${method} ${path}: ${answer.status} ${answer.text.slice(0, 500)}`);
    return JSON.parse(answer.text);
  }

  /** Custom resources, until they are served. */
  async installDefinitions(definitions: readonly { readonly metadata: { readonly name: string } }[]): Promise<void> {
    const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for (const definition of definitions) await this.send("POST", path, definition, [409]);
    for (const { metadata } of definitions) {
      await eventually(async () => {
        const { status } = (await this.send("GET", `${path}/${metadata.name}`)) as {
          readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
        };
        if (!status?.conditions?.some(({ type, status: is }) => type === "Established" && is === "True"))
          throw new Error(`${metadata.name} is not established`);
      });
    }
  }

  /** A pod that no node runs, with the status that a node would report. */
  async createPod(namespace: string, name: string, podIP: string, labels: Readonly<Record<string, string>>): Promise<void> {
    const pods = `/api/v1/namespaces/${namespace}/pods`;
    const spec = { containers: [{ name: "engine", image: "none" }], automountServiceAccountToken: false, nodeName: "nowhere" };
    await this.send("POST", pods, { metadata: { name, labels }, spec });
    await this.setReady(namespace, name, true, podIP);
  }

  async setReady(namespace: string, name: string, isReady: boolean, podIP?: string): Promise<void> {
    const conditions = [{ type: "Ready", status: isReady ? "True" : "False" }];
    const address = podIP === undefined ? {} : { podIP, podIPs: [{ ip: podIP }] };
    await this.send("PATCH", `/api/v1/namespaces/${namespace}/pods/${name}/status`, {
      status: { phase: "Running", conditions, ...address },
    });
  }
}
