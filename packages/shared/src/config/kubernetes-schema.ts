import { z } from "zod";

/* Replicas that are pods, and how the API server that knows them is reached. */

const objectName = z
  .string()
  .regex(/^[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?$/)
  .meta({ form: "name of a Kubernetes object" });

export const kubernetesEndpointsSchema = z.strictObject({
  inferencePool: objectName
    .optional()
    .describe(
      "InferencePool (v1 or v1alpha2) that names the pods and their ports; its routing-strategy and traffic policy are read as well.",
    ),
  selector: z
    .string()
    .min(1)
    .max(4_096)
    .optional()
    .describe("Without inferencePool: pods by their labels, as kubectl writes it, e.g. app=vllm,tier in (a,b)."),
  targetPorts: z
    .array(z.int().min(1).max(65_535).describe("A port."))
    .max(8)
    .default([])
    .describe("With selector: HTTP ports of each pod; each is a replica, the first one data-parallel rank 0. None: 8000."),
  namespace: objectName
    .optional()
    .describe("Where pods and pool are. Without it: the namespace that kvatlas runs in, or that of the kubeconfig."),
  eventsPort: z
    .int()
    .min(1)
    .max(65_535)
    .optional()
    .describe(
      "Port at which a pod publishes KV events, often 5557; the port of a further rank is that much higher. Without it the replica is asked, or dials the ingester (ingester.bind).",
    ),
  replayPort: z.int().min(1).max(65_535).optional().describe("Port of a pod's replay socket, counted as eventsPort."),
  dataParallelSize: z.int().min(1).max(1024).default(1).describe("Ranks behind each port; events and replay ports are offset by the rank."),
});

export const kubernetesSchema = z.strictObject({
  kubeconfig: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe("kubeconfig file. null: the pod's service account; outside a cluster KUBECONFIG, else ~/.kube/config."),
  context: z.string().min(1).nullable().default(null).describe("Context of the kubeconfig; null: its current one."),
});

export type KubernetesEndpoints = z.output<typeof kubernetesEndpointsSchema>;
