import { type CallArguments, isInt, TemplateRaised, TemplateUnsupported, typeName, type Value } from "./values.ts";

export const NO_ARGUMENTS: CallArguments = { positional: [], named: new Map() };

/**
 * Binds call arguments to parameter names as Python does; missing ones are absent from the result.
 * Wrong calls raise, because in the engine they raise too.
 */
export function bind(name: string, parameters: readonly string[], args: CallArguments): ReadonlyMap<string, Value> {
  if (args.positional.length > parameters.length) {
    throw new TemplateRaised(`${name}() takes at most ${parameters.length} arguments (${args.positional.length} given)`);
  }
  const bound = new Map<string, Value>();
  args.positional.forEach((value, i) => {
    bound.set(parameters[i] ?? "", value);
  });
  for (const [key, value] of args.named) {
    if (!parameters.includes(key)) throw new TemplateRaised(`${name}() got an unexpected keyword argument '${key}'`);
    if (bound.has(key)) throw new TemplateRaised(`${name}() got multiple values for argument '${key}'`);
    bound.set(key, value);
  }
  return bound;
}

/** A required argument. */
export function need(name: string, bound: ReadonlyMap<string, Value>, key: string): Value {
  const value = bound.get(key);
  if (value === undefined) throw new TemplateRaised(`${name}() missing required argument '${key}'`);
  return value;
}

export function needString(name: string, value: Value): string {
  if (typeof value === "string") return value;
  throw new TemplateRaised(`${name}(): a str is needed, not ${typeName(value)}`);
}

/** An int argument within JavaScript's exact range. */
export function needIndex(name: string, value: Value): number {
  if (isInt(value)) {
    const index = Number(value);
    if (Number.isSafeInteger(index)) return index;
    throw new TemplateUnsupported(`${name}() with an integer beyond 2^53`);
  }
  throw new TemplateRaised(`${name}(): an int is needed, not ${typeName(value)}`);
}
