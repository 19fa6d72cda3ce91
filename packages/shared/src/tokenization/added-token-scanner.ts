/** A stretch of text between added tokens, or one added token. */
export interface Segment {
  readonly text: string;
  /** Id of the added token; null for text. */
  readonly tokenId: number | null;
}

interface TrieNode {
  readonly next: Map<number, TrieNode>;
  tokenId: number | null;
}

/** Finds added tokens in a text: leftmost first, of several at one place the longest, as the engine's tokenizer does. */
export class AddedTokenScanner {
  readonly #root: TrieNode = { next: new Map(), tokenId: null };
  /** 1 for every UTF-16 unit that begins some token: all other positions cost one look. */
  readonly #begins = new Uint8Array(0x1_0000);

  /** What every token begins with; mostly `<`, so that the runtime's own search jumps from one candidate to the next. */
  readonly #prefix: string;

  constructor(tokens: Iterable<{ readonly content: string; readonly id: number }>) {
    let prefix: string | null = null;
    for (const { content, id } of tokens) {
      if (content === "") continue;
      prefix = prefix === null ? content : commonPrefix(prefix, content);
      let node = this.#root;
      for (let i = 0; i < content.length; i++) {
        const unit = content.charCodeAt(i);
        let child = node.next.get(unit);
        if (child === undefined) {
          child = { next: new Map(), tokenId: null };
          node.next.set(unit, child);
        }
        node = child;
      }
      node.tokenId = id;
      this.#begins[content.charCodeAt(0)] = 1;
    }
    this.#prefix = prefix ?? "";
  }

  /** The whole text, in order; pieces of text are never empty. */
  scan(text: string): Segment[] {
    const segments: Segment[] = [];
    let start = 0;
    for (let at = this.#candidate(text, 0); at < text.length; ) {
      const token = this.#match(text, at);
      if (token === null) {
        at = this.#candidate(text, at + 1);
        continue;
      }
      if (at > start) segments.push({ text: text.slice(start, at), tokenId: null });
      start = at + token.length;
      segments.push({ text: text.slice(at, start), tokenId: token.tokenId });
      at = this.#candidate(text, start);
    }
    if (start < text.length) segments.push({ text: text.slice(start), tokenId: null });
    return segments;
  }

  /** First position from `from` on where a token may begin; the text's length when there is none. */
  #candidate(text: string, from: number): number {
    if (this.#prefix !== "") {
      const found = text.indexOf(this.#prefix, from);
      return found < 0 ? text.length : found;
    }
    let at = from;
    while (at < text.length && this.#begins[text.charCodeAt(at)] !== 1) at += 1;
    return at;
  }

  #match(text: string, at: number): { readonly length: number; readonly tokenId: number } | null {
    let node: TrieNode | undefined = this.#root;
    let best: { readonly length: number; readonly tokenId: number } | null = null;
    for (let i = at; i < text.length; i++) {
      node = node.next.get(text.charCodeAt(i));
      if (node === undefined) break;
      if (node.tokenId !== null) best = { length: i + 1 - at, tokenId: node.tokenId };
    }
    return best;
  }
}

function commonPrefix(a: string, b: string): string {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length += 1;
  return a.slice(0, length);
}
