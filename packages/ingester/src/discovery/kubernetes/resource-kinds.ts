/** One kind of object in one version. */
export interface ResourceKind {
  /** Empty for the core group. */
  readonly group: string;
  readonly version: string;
  readonly plural: string;
}

const experimental = "inference.networking.x-k8s.io";

export const podKind: ResourceKind = { group: "", version: "v1", plural: "pods" };
export const poolKindV1: ResourceKind = { group: "inference.networking.k8s.io", version: "v1", plural: "inferencepools" };
/** Gateway API Inference Extension up to 1.4. */
export const poolKindAlpha: ResourceKind = { group: experimental, version: "v1alpha2", plural: "inferencepools" };
export const policyKind: ResourceKind = {
  group: "inferenceextension.alibabacloud.com",
  version: "v1alpha1",
  plural: "inferencetrafficpolicies",
};

/** The same objects, newest version first; the first version that is served is read. */
export const objectiveKinds: readonly (readonly ResourceKind[])[] = [
  versions("llm-d.ai", "inferenceobjectives", ["v1alpha2"]),
  versions(experimental, "inferenceobjectives", ["v1alpha2", "v1alpha1"]),
];
export const rewriteKinds: readonly (readonly ResourceKind[])[] = [
  versions("llm-d.ai", "inferencemodelrewrites", ["v1alpha2"]),
  versions(experimental, "inferencemodelrewrites", ["v1alpha2", "v1alpha1"]),
];
export const modelKinds: readonly (readonly ResourceKind[])[] = [versions(experimental, "inferencemodels", ["v1alpha2", "v1alpha1"])];

function versions(group: string, plural: string, names: readonly string[]): readonly ResourceKind[] {
  return names.map((version) => ({ group, version, plural }));
}

export function pathOf({ group, version, plural }: ResourceKind, namespace: string): string {
  const root = group === "" ? `/api/${version}` : `/apis/${group}/${version}`;
  return `${root}/namespaces/${encodeURIComponent(namespace)}/${plural}`;
}

/** The rule of a Role that is needed, in words. */
export function missingRule({ group, plural }: ResourceKind, namespace: string): string {
  return `add to its Role in namespace ${namespace} the rule {apiGroups: ["${group}"], resources: ["${plural}"], verbs: ["get", "list", "watch"]}`;
}
