import { createHash } from "node:crypto";
import { askHub, type HubAccess, HubAnswerError } from "./hub-http.ts";

/** A file as the hub describes it. */
export interface HubFile {
  readonly name: string;
  /** Names the content: SHA-256 of large files, git's blob id of small ones. A safe file name. */
  readonly etag: string;
  readonly sizeBytes: number | null;
  readonly url: string;
}

export interface HubListing {
  /** Names this state of the files: the commit, or a digest of what is in it. */
  readonly commit: string;
  readonly files: readonly HubFile[];
}

/** What a tokenizer is made of; the last two are not in every repository. */
export const requiredFiles = ["tokenizer.json", "tokenizer_config.json"] as const;
const optionalFiles = ["config.json", "chat_template.jinja"] as const;

const safeName = /^[A-Za-z0-9._-]{1,128}$/;

/**
 * The tokenizer's files at a revision.
 *
 * @throws HubAnswerError, also with 404 when a required file is missing
 */
export function listFiles(fetchUrl: typeof fetch, access: HubAccess): Promise<HubListing> {
  return access.hub === "huggingface" ? listHuggingFace(fetchUrl, access) : listModelScope(fetchUrl, access);
}

/** As huggingface_hub does: one HEAD of `/{repo}/resolve/{revision}/{file}` each; `x-linked-*` describe files that lie in the large-file store. */
async function listHuggingFace(fetchUrl: typeof fetch, access: HubAccess): Promise<HubListing> {
  const { endpoint, repository, revision } = access;
  let commit: string | null = null;
  const head = async (name: string, required: boolean): Promise<HubFile | null> => {
    const url = `${endpoint}/${repository}/resolve/${encodeURIComponent(revision)}/${name}`;
    try {
      const { first } = await askHub(fetchUrl, access, url, { method: "HEAD" });
      commit ??= first.get("x-repo-commit");
      const etag = cleanEtag(first.get("x-linked-etag") ?? first.get("etag"));
      const size = first.get("x-linked-size") ?? first.get("content-length");
      return { name, etag, sizeBytes: size === null ? null : Number(size), url };
    } catch (error) {
      if (!required && error instanceof HubAnswerError && error.status === 404) return null;
      throw error;
    }
  };
  // The first answer tells of the repository, before all others fail for the same reason.
  const [firstName, secondName] = requiredFiles;
  const main = await head(firstName, true);
  const rest = await Promise.all([head(secondName, true), ...optionalFiles.map((name) => head(name, false))]);
  const files = [main, ...rest].filter((file) => file !== null);
  return { commit: safeCommit(commit) ?? digestOf(files), files };
}

/** `/api/v1/models/{repo}/repo/files` lists, `/api/v1/models/{repo}/repo` serves (modelscope SDK 1.2x, hub/api.py). */
async function listModelScope(fetchUrl: typeof fetch, access: HubAccess): Promise<HubListing> {
  const { endpoint, repository, revision } = access;
  const base = `${endpoint}/api/v1/models/${repository}/repo`;
  const { response } = await askHub(fetchUrl, access, `${base}/files?${new URLSearchParams({ Revision: revision, Recursive: "false" })}`, {
    method: "GET",
  });
  const entries = entriesOf(await response.json());
  const files: HubFile[] = [];
  for (const name of [...requiredFiles, ...optionalFiles]) {
    const entry = entries.find((candidate) => candidate.Path === name);
    if (entry === undefined) {
      if ((requiredFiles as readonly string[]).includes(name)) throw new HubAnswerError(404, null);
      continue;
    }
    files.push({
      name,
      etag: cleanEtag(typeof entry.Sha256 === "string" ? entry.Sha256 : null),
      sizeBytes: typeof entry.Size === "number" ? entry.Size : null,
      url: `${base}?${new URLSearchParams({ Revision: revision, FilePath: name })}`,
    });
  }
  return { commit: digestOf(files), files };
}

function entriesOf(answer: unknown): readonly Readonly<Record<string, unknown>>[] {
  const data: unknown = typeof answer === "object" && answer !== null && "Data" in answer ? answer.Data : null;
  const files: unknown = typeof data === "object" && data !== null && "Files" in data ? data.Files : null;
  if (!Array.isArray(files)) throw new Error("the hub's list of files has another form than expected");
  return files.filter((entry): entry is Readonly<Record<string, unknown>> => typeof entry === "object" && entry !== null);
}

/** @throws Error when the hub does not name the content: nothing could be checked or kept apart */
function cleanEtag(value: string | null): string {
  const etag = value?.replace(/^W\//, "").replaceAll('"', "") ?? "";
  if (!safeName.test(etag)) throw new Error("the hub does not say which content a file has (no usable etag)");
  return etag;
}

function safeCommit(commit: string | null): string | null {
  return commit !== null && safeName.test(commit) ? commit : null;
}

function digestOf(files: readonly HubFile[]): string {
  return createHash("sha256")
    .update(files.map(({ name, etag }) => `${name} ${etag}\n`).join(""))
    .digest("hex")
    .slice(0, 40);
}
