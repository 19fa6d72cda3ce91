/* Messages of proto/ext-proc.proto as they are read and written. */

export interface HeaderValue {
  readonly key?: string;
  /** One of the two holds the value: older gateways use `value`, newer ones `rawValue`. */
  readonly value?: string;
  readonly rawValue?: Buffer;
}

export interface HeaderMap {
  readonly headers?: readonly HeaderValue[];
}

export interface HttpHeaders {
  readonly headers?: HeaderMap;
  readonly endOfStream?: boolean;
}

export interface HttpBody {
  /** Absent when empty. */
  readonly body?: Buffer;
  readonly endOfStream?: boolean;
}

/** google.protobuf.Value, as far as it matters here. */
export interface StructValue {
  readonly stringValue?: string;
  readonly listValue?: { readonly values?: readonly StructValue[] };
  readonly structValue?: Struct;
}

export interface Struct {
  readonly fields?: Readonly<Record<string, StructValue>>;
}

export interface Metadata {
  readonly filterMetadata?: Readonly<Record<string, Struct>>;
}

export interface ProcessingRequest {
  readonly request?: "requestHeaders" | "responseHeaders" | "requestBody" | "responseBody" | "requestTrailers" | "responseTrailers";
  readonly requestHeaders?: HttpHeaders;
  readonly responseHeaders?: HttpHeaders;
  readonly requestBody?: HttpBody;
  readonly responseBody?: HttpBody;
  readonly requestTrailers?: object;
  readonly responseTrailers?: object;
  readonly metadataContext?: Metadata;
  /** The gateway wants no answers. */
  readonly observabilityMode?: boolean;
  /** Of the first message, by newer gateways; a mode that is absent is `NONE`. */
  readonly protocolConfig?: { readonly requestBodyMode?: number; readonly responseBodyMode?: number };
}

export interface HeaderMutation {
  readonly setHeaders?: readonly { readonly header: { readonly key: string; readonly rawValue: Buffer }; readonly appendAction: number }[];
  readonly removeHeaders?: readonly string[];
}

export interface StreamedBody {
  readonly body: Buffer;
  readonly endOfStream: boolean;
}

export interface CommonResponse {
  readonly headerMutation?: HeaderMutation;
  readonly bodyMutation?: { readonly body?: Buffer; readonly clearBody?: boolean; readonly streamedResponse?: StreamedBody };
  readonly clearRouteCache?: boolean;
}

export interface ImmediateResponse {
  readonly status: { readonly code: number };
  readonly headers: HeaderMutation;
  readonly body: Buffer;
  readonly details: string;
}

/** Exactly one of the answers, and what goes with it. */
export interface ProcessingResponse {
  readonly requestHeaders?: { readonly response?: CommonResponse };
  readonly responseHeaders?: { readonly response?: CommonResponse };
  readonly requestBody?: { readonly response?: CommonResponse };
  readonly responseBody?: { readonly response?: CommonResponse };
  readonly requestTrailers?: object;
  readonly responseTrailers?: object;
  readonly immediateResponse?: ImmediateResponse;
  readonly dynamicMetadata?: Struct;
}
