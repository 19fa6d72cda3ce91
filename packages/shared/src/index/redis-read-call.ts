/** One script call of a lookup, and where its answer goes. */
export interface ReadCall {
  /** `find`: find-1.lua, lengths of prefixes; `read`: read-1.lua, every entry of some blocks. */
  readonly script: "find" | "read";
  readonly keys: readonly string[];
  readonly args: readonly (string | number)[];
  readonly accept: (reply: unknown) => void;
}
