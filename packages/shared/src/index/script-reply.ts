import type { WriterTarget } from "./block-index.ts";
import { compareWatermarks, type Position, parsePosition, type Watermark } from "./redis-keys.ts";

/** What it means that a shard was not where a writer expected it to be. */
export type Mismatch =
  /** A later owner has taken over. */
  | { readonly kind: "fenced"; readonly position: Position }
  /** A later incarnation has been opened. */
  | { readonly kind: "stale"; readonly position: Position }
  /** The shard has lost the taking-over itself, and whatever came after it; or a call has broken off half-way, so that nothing there can be relied on. */
  | { readonly kind: "lost"; readonly isMissing: boolean }
  /** The shard is further than expected: an earlier call whose outcome was unknown did get through. */
  | { readonly kind: "ahead"; readonly mark: Watermark }
  /** The shard has lost writes it had acknowledged. */
  | { readonly kind: "behind"; readonly mark: Watermark };

/** At the end of a position: the script call that would have moved it has broken off, after some of its writes. */
const BROKEN_OFF = "!";

/** Reads a position that apply-1.lua or open-1.lua has answered with. Anything unreadable counts as missing. */
export function explainMismatch(reply: unknown, target: WriterTarget, expected: Watermark): Mismatch {
  const text = typeof reply === "string" ? reply : "";
  const isBroken = text.endsWith(BROKEN_OFF);
  const position = parsePosition(isBroken ? text.slice(0, -BROKEN_OFF.length) : text);
  if (position === null) return { kind: "lost", isMissing: true };
  if (position.fence > target.fence) return { kind: "fenced", position };
  if (position.incarnation > target.incarnation) return { kind: "stale", position };
  if (isBroken || position.fence < target.fence || position.incarnation < target.incarnation) return { kind: "lost", isMissing: false };
  const kind = compareWatermarks(position.mark, expected) < 0 ? "behind" : "ahead";
  return { kind, mark: position.mark };
}
