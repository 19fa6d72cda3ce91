import { spanOfFormModel } from "../request/model-of-body.ts";
import { modelSpans, splice } from "./model-span.ts";

/** The body with the name of the target in the place of the one the client wrote; every other byte as it came. */
export function withModel(body: Buffer, contentType: string, resolved: { readonly target: string | null }): Buffer {
  if (resolved.target === null) return body;
  if (/^multipart\/form-data/i.test(contentType)) {
    const span = spanOfFormModel(body);
    return span === null ? body : splice(body, [span], Buffer.from(resolved.target));
  }
  return splice(body, modelSpans(body), Buffer.from(JSON.stringify(resolved.target)));
}
