import { createHash, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { KvatlasError } from "../../errors.ts";
import { askHub, type HubAccess } from "./hub-http.ts";
import type { HubFile } from "./hub-listing.ts";

/** The largest tokenizer.json in use has 40 MB. */
const MAX_FILE_BYTES = 256 * 1024 * 1024;
/** What another process has not written to for this long was left behind. */
const ABANDONED_AFTER_MS = 60_000;

/** A download in progress: a file that only this process writes to, and what is known of it. */
export interface PartialFile {
  readonly path: string;
  readonly file: HubFile;
}

/** Begins where an earlier attempt ended, be it of this or of another process that is gone; else anew. */
export async function beginDownload(blobPath: string, file: HubFile, nowMs: number): Promise<PartialFile> {
  const own = `${blobPath}.${randomUUID()}.incomplete`;
  const prefix = `${basename(blobPath)}.`;
  for (const name of await readdir(dirname(blobPath))) {
    if (!name.startsWith(prefix) || !name.endsWith(".incomplete")) continue;
    const path = join(dirname(blobPath), name);
    try {
      if (nowMs - (await stat(path)).mtimeMs < ABANDONED_AFTER_MS) continue;
      // Of several that want it, one gets it.
      await rename(path, own);
      break;
    } catch {
      // Somebody else took it.
    }
  }
  return { path: own, file };
}

/**
 * Downloads what is missing of a file. When it throws, what has come so far is kept and the next call goes on from there.
 *
 * @throws HubAnswerError; KVATLAS_TOKENIZER_UNAVAILABLE the content is not what the hub announced, or larger than any tokenizer
 */
export async function continueDownload(fetchUrl: typeof fetch, access: HubAccess, partial: PartialFile): Promise<void> {
  const { path, file } = partial;
  if (file.sizeBytes !== null && file.sizeBytes > MAX_FILE_BYTES) throw tooLarge(file, file.sizeBytes);
  const handle = await open(path, "a");
  try {
    let have = (await handle.stat()).size;
    if (file.sizeBytes !== null && have > file.sizeBytes) {
      await handle.truncate(0);
      have = 0;
    }
    if (file.sizeBytes === null || have < file.sizeBytes) {
      const { response } = await askHub(fetchUrl, access, file.url, {
        method: "GET",
        ...(have === 0 ? {} : { headers: { range: `bytes=${have}-` } }),
      });
      if (have > 0 && response.status !== 206) {
        // The server knows no ranges: from the start.
        await handle.truncate(0);
        have = 0;
      }
      for await (const chunk of response.body ?? []) {
        have += chunk.byteLength;
        if (have > MAX_FILE_BYTES) throw tooLarge(file, have);
        await handle.writeFile(chunk);
      }
    }
    await handle.sync();
    if (file.sizeBytes !== null && have < file.sizeBytes) {
      throw new Error(`${file.name} ended after ${have} of ${file.sizeBytes} bytes`);
    }
  } finally {
    await handle.close();
  }
}

/** Gives a whole and correct file its name. @throws KVATLAS_TOKENIZER_UNAVAILABLE when its content is another than announced */
export async function finishDownload({ path, file }: PartialFile, blobPath: string): Promise<void> {
  const expected = file.etag.toLowerCase();
  const digest = await digestLike(expected, path);
  if (digest !== null && digest !== expected) {
    await rm(path, { force: true });
    throw new KvatlasError(
      "KVATLAS_TOKENIZER_UNAVAILABLE",
      `${file.name} came with another content (${digest}) than the hub announced (${expected}); is something between here and the hub changing answers?`,
    );
  }
  await rename(path, blobPath);
}

/** SHA-256 for large files, git's blob id for small ones; null for tags of another kind, which say nothing about the content. */
async function digestLike(etag: string, path: string): Promise<string | null> {
  const form = /^[0-9a-f]{64}$/.test(etag) ? "sha256" : /^[0-9a-f]{40}$/.test(etag) ? "sha1" : null;
  if (form === null) return null;
  const hash = createHash(form);
  if (form === "sha1") hash.update(`blob ${(await stat(path)).size}\0`);
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

function tooLarge(file: HubFile, bytes: number): KvatlasError {
  return new KvatlasError(
    "KVATLAS_TOKENIZER_UNAVAILABLE",
    `${file.name} has ${bytes} bytes; a tokenizer's file has at most ${MAX_FILE_BYTES}. Is tokenizer.repository right?`,
  );
}
