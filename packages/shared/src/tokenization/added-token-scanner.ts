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

  constructor(tokens: Iterable<{ readonly content: string; readonly id: number }>) {
    for (const { content, id } of tokens) {
      if (content === "") continue;
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
  }

  /** The whole text, in order; pieces of text are never empty. */
  scan(text: string): Segment[] {
    const segments: Segment[] = [];
    let start = 0;
    let at = 0;
    while (at < text.length) {
      const length = this.#begins[text.charCodeAt(at)] === 1 ? this.#match(text, at) : null;
      if (length === null) {
        at += 1;
        continue;
      }
      if (at > start) segments.push({ text: text.slice(start, at), tokenId: null });
      segments.push({ text: text.slice(at, at + length.length), tokenId: length.tokenId });
      at += length.length;
      start = at;
    }
    if (start < text.length) segments.push({ text: text.slice(start), tokenId: null });
    return segments;
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
