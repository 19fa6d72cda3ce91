import { isIPv4, isIPv6 } from "node:net";
import type { Metadata, Struct, StructValue } from "./messages.ts";

/** Namespace and keys of the endpoint picker protocol (Gateway API Inference Extension, proposal 004, v1.0.0). */
const balancerNamespace = "envoy.lb";
const subsetNamespace = "envoy.lb.subset_hint";
const subsetKey = "x-gateway-destination-endpoint-subset";
const servedKey = "x-gateway-destination-endpoint-served";
export const destinationKey = "x-gateway-destination-endpoint";

/** Hints beyond these are no list of replicas. */
const maxHints = 10_000;

/** `ip:port` or `ip` of the endpoints that may be picked; null when the gateway does not say. */
export function subsetIn(metadata: Metadata | undefined): readonly string[] | null {
  const value = metadata?.filterMetadata?.[subsetNamespace]?.fields?.[subsetKey];
  if (value === undefined) return null;
  if (value.stringValue !== undefined) return entriesOf(value.stringValue);
  return (value.listValue?.values ?? []).flatMap((item) => entriesOf(item.stringValue ?? "")).slice(0, maxHints);
}

function entriesOf(text: string): readonly string[] {
  return text
    .split(",", maxHints)
    .map((entry) => entry.trim())
    .filter((entry) => entry !== "");
}

/** `ip:port` of the endpoint that gave the answer; null when the gateway does not say. */
export function servedIn(metadata: Metadata | undefined): string | null {
  const served = metadata?.filterMetadata?.[balancerNamespace]?.fields?.[servedKey]?.stringValue;
  return served === undefined || served === "" ? null : served;
}

/** What goes with the header of the same name, so that a gateway may read either. */
export function destinationMetadata(destination: string): Struct {
  const value: StructValue = { structValue: { fields: { [destinationKey]: { stringValue: destination } } } };
  return { fields: { [balancerNamespace]: value } };
}

interface Place {
  /** In one spelling. */
  readonly ip: string;
  readonly port: string | null;
}

/** Null for what is no IP address, with or without a port: gateways send requests to addresses, not to names. */
function placeOf(text: string): Place | null {
  const bracketed = /^\[([0-9a-fA-F:.]+)\](?::(\d{1,5}))?$/.exec(text);
  const [host, port] = bracketed !== null ? [bracketed[1], bracketed[2]] : isIPv6(text) ? [text, undefined] : splitIPv4(text);
  if (host === undefined) return null;
  if (isIPv4(host)) return { ip: host, port: port ?? null };
  if (!isIPv6(host)) return null;
  return { ip: new URL(`http://[${host}]`).hostname, port: port ?? null };
}

function splitIPv4(text: string): readonly [string | undefined, string | undefined] {
  const found = /^([0-9.]+)(?::(\d{1,5}))?$/.exec(text);
  return [found?.[1], found?.[2]];
}

/** An address that a gateway can be told: `ip:port`, with brackets around IPv6. */
export function isDestination(address: string): boolean {
  const place = placeOf(address);
  return place !== null && place.port !== null;
}

export function isSameAddress(a: string, b: string): boolean {
  if (a === b) return true;
  const [first, second] = [placeOf(a), placeOf(b)];
  return first !== null && second !== null && first.ip === second.ip && first.port === second.port;
}

/** Whether an address is in a subset: entries with a port name one endpoint, entries without name all endpoints of an IP address. */
export function subsetFilter(subset: readonly string[]): (address: string) => boolean {
  const ips = new Set<string>();
  const places = new Set<string>();
  for (const entry of subset) {
    const place = placeOf(entry);
    if (place === null) continue;
    if (place.port === null) ips.add(place.ip);
    else places.add(`${place.ip} ${place.port}`);
  }
  return (address) => {
    const place = placeOf(address);
    return place !== null && (ips.has(place.ip) || places.has(`${place.ip} ${place.port}`));
  };
}
