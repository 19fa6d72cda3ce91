import { Undefined, type Value } from "./values.ts";

/** Variables visible at one place of a template; lookups go outwards. */
export class Scope {
  readonly #parent: Scope | null;
  readonly #names: Map<string, Value>;

  constructor(parent: Scope | null, names: Map<string, Value> = new Map()) {
    this.#parent = parent;
    this.#names = names;
  }

  get(name: string): Value {
    for (let scope: Scope | null = this; scope !== null; scope = scope.#parent) {
      const value = scope.#names.get(name);
      if (value !== undefined) return value;
    }
    return new Undefined(`'${name}'`);
  }

  set(name: string, value: Value): void {
    this.#names.set(name, value);
  }
}
