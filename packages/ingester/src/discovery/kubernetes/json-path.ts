/** The value at a path of field names in what somebody else wrote; undefined where there is none. */
export function valueAt(value: unknown, ...path: readonly string[]): unknown {
  let current = value;
  for (const name of path) {
    if (typeof current !== "object" || current === null || !Object.hasOwn(current, name)) return undefined;
    current = Reflect.get(current, name);
  }
  return current;
}

/** Null for anything but a text that is not empty. */
export function textAt(value: unknown, ...path: readonly string[]): string | null {
  const found = valueAt(value, ...path);
  return typeof found === "string" && found !== "" ? found : null;
}

/** Null for anything but a whole number. */
export function integerAt(value: unknown, ...path: readonly string[]): number | null {
  const found = valueAt(value, ...path);
  return typeof found === "number" && Number.isSafeInteger(found) ? found : null;
}

/** Empty for anything but a list. */
export function listAt(value: unknown, ...path: readonly string[]): readonly unknown[] {
  const found = valueAt(value, ...path);
  return Array.isArray(found) ? found : [];
}
