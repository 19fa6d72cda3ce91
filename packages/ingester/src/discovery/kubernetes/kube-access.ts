import type { RequestOptions } from "node:https";
import type { KvatlasConfig } from "@kvatlas/shared/config/schema";
import { KvatlasError } from "@kvatlas/shared/errors";

/** Where the API server is, and what it takes to be let in. */
export interface KubeAccess {
  readonly server: URL;
  /** Of the pod or the context; `default` where neither says. */
  readonly namespace: string;
  /** TLS and credentials for one request; credentials that expire are renewed in time. */
  requestOptions(): Promise<RequestOptions>;
}

/**
 * The access that is configured; opened anew it reads tokens and certificates anew.
 *
 * @throws KVATLAS_KUBERNETES_UNAVAILABLE there is no such file or context
 */
export async function openKubeAccess(settings: KvatlasConfig["kubernetes"]): Promise<KubeAccess> {
  // Large, and needed by ingesters in clusters only.
  const { KubeConfig } = await import("@kubernetes/client-node");
  const config = new KubeConfig();
  const inPod = (process.env.KUBERNETES_SERVICE_HOST ?? "") !== "";
  try {
    if (settings.kubeconfig !== null) config.loadFromFile(settings.kubeconfig);
    else if (inPod) config.loadFromCluster();
    else config.loadFromDefault();
    if (settings.context !== null) config.setCurrentContext(settings.context);
  } catch (error) {
    throw noAccess(`${settings.kubeconfig ?? "the kubeconfig"} cannot be read: ${reasonOf(error)}`, error);
  }
  const context = config.getContextObject(config.getCurrentContext());
  const cluster = config.getCurrentCluster();
  if (context === null || cluster === null || !URL.canParse(cluster.server)) {
    const known = config.getContexts().map(({ name }) => name);
    throw noAccess(
      `context "${config.getCurrentContext()}" names no API server; contexts there: ${known.join(", ") || "none"}. Set kubernetes.kubeconfig and kubernetes.context`,
    );
  }
  return {
    server: new URL(cluster.server),
    namespace: context.namespace?.trim() || "default",
    requestOptions: async () => {
      const options: RequestOptions = { headers: {} };
      try {
        await config.applyToHTTPSOptions(options);
      } catch (error) {
        throw noAccess(`credentials cannot be had: ${reasonOf(error)}`, error);
      }
      return { ...options, headers: trimmed(options.headers) };
    },
  };
}

/** Files with tokens may end with a newline, which headers may not. */
function trimmed(headers: RequestOptions["headers"]): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers ?? {}).flatMap(([name, value]) => (value === undefined ? [] : [[name, String(value).trim()]])),
  );
}

function noAccess(message: string, cause?: unknown): KvatlasError {
  return new KvatlasError("KVATLAS_KUBERNETES_UNAVAILABLE", `Kubernetes: ${message}.`, { cause });
}

export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code } = error as NodeJS.ErrnoException;
  return error.message === "" ? (code ?? error.name) : error.message.replace(/\.$/, "");
}
