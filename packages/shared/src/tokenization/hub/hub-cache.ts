import { randomUUID } from "node:crypto";
import { access, copyFile, mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";
import { requiredFiles } from "./hub-listing.ts";

/**
 * The cache of one repository, in the layout of huggingface_hub, so that both can use the same directory: contents under `blobs/` by etag, a
 * directory of links per commit under `snapshots/`, and branches under `refs/`. Whatever appears under its final name is whole.
 */
export class HubCache {
  readonly #root: string;

  /** @param directory - as huggingface_hub's HF_HUB_CACHE */
  constructor(directory: string, repository: string) {
    this.#root = join(directory, `models--${repository.replaceAll("/", "--")}`);
  }

  blobPath(etag: string): string {
    return join(this.#root, "blobs", etag);
  }

  snapshotPath(commit: string): string {
    return join(this.#root, "snapshots", commit);
  }

  async prepare(): Promise<void> {
    await mkdir(join(this.#root, "blobs"), { recursive: true });
  }

  async has(etag: string): Promise<boolean> {
    return exists(this.blobPath(etag));
  }

  /** Makes a snapshot of blobs that are all there, and lets the revision point to it. */
  async publish(revision: string, commit: string, files: readonly { readonly name: string; readonly etag: string }[]): Promise<string> {
    const directory = this.snapshotPath(commit);
    await mkdir(directory, { recursive: true });
    for (const { name, etag } of files) await link(this.blobPath(etag), join(directory, name));
    const ref = this.#refPath(revision);
    if (ref !== null && revision !== commit) {
      await mkdir(dirname(ref), { recursive: true });
      const temporary = `${ref}.${randomUUID()}.tmp`;
      await writeFile(temporary, commit);
      await rename(temporary, ref);
    }
    return directory;
  }

  /** The directory of a revision that was downloaded before; null when there is none, or not all of it. */
  async find(revision: string): Promise<string | null> {
    const ref = this.#refPath(revision);
    const named = ref === null ? null : await readFile(ref, "utf8").catch(() => null);
    const directory = this.snapshotPath(named?.trim() || safePart(revision));
    for (const name of requiredFiles) if (!(await exists(join(directory, name)))) return null;
    return directory;
  }

  #refPath(revision: string): string | null {
    const parts = revision.split("/");
    return parts.every((part) => /^[A-Za-z0-9._-]+$/.test(part) && part !== "." && part !== "..")
      ? join(this.#root, "refs", ...parts)
      : null;
  }
}

/** HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub. */
export function defaultCacheDirectory(env: Readonly<Record<string, string | undefined>>): string {
  const own = env.HF_HUB_CACHE ?? "";
  if (own !== "") return own;
  const home = env.HF_HOME ?? "";
  if (home !== "") return join(home, "hub");
  const cache = env.XDG_CACHE_HOME ?? "";
  return join(cache === "" ? join(homedir(), ".cache") : cache, "huggingface", "hub");
}

function safePart(text: string): string {
  return text.replace(/[^A-Za-z0-9._-]/g, "_").replace(/^\.+/, "_");
}

/** Links appear whole, also when two processes make the same one. */
async function link(target: string, path: string): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    await symlink(relative(dirname(path), target), temporary);
  } catch {
    // Where links are not allowed.
    await copyFile(target, temporary);
  }
  try {
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
