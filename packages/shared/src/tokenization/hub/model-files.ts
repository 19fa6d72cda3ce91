import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "../../logger.ts";
import { defaultCacheDirectory, HubCache } from "./hub-cache.ts";
import { beginDownload, continueDownload, finishDownload } from "./hub-download.ts";
import { describeHubFailure, type HubAccess, HubAnswerError, type HubName, isWorthRetrying, reasonOf } from "./hub-http.ts";
import { type HubFile, listFiles } from "./hub-listing.ts";

export interface ModelFilesOptions {
  readonly hub: HubName;
  /** `organization/model`. */
  readonly repository: string;
  /** Branch, tag or commit. @defaultValue main, on ModelScope master */
  readonly revision?: string | null;
  /** @defaultValue that of huggingface_hub: HF_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub */
  readonly cacheDirectory?: string | null;
}

export interface ModelFilesDeps {
  readonly logger: Logger;
  readonly fetch: typeof fetch;
  /** HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, HF_HUB_CACHE, HF_HOME; MODELSCOPE_API_TOKEN, MODELSCOPE_ENDPOINT. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Pause before another try. @defaultValue a timer */
  readonly wait?: (ms: number) => Promise<void>;
}

/** Pauses between tries; one more try than pauses. */
const RETRY_AFTER_MS = [500, 1_000, 2_000, 4_000];
const LONGEST_WAIT_MS = 30_000;

/**
 * A directory with the tokenizer's files of a model, downloaded where they are not in the cache yet. Only what changed is downloaded; when the
 * hub cannot be reached, what was downloaded before is used, and the log says so.
 *
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE what is missing and what to do
 */
export async function obtainModelFiles(options: ModelFilesOptions, deps: ModelFilesDeps): Promise<string> {
  const { logger, env } = deps;
  const access = hubAccess(options, env);
  const root = options.cacheDirectory ?? defaultCacheDirectory(env);
  // The two hubs may know different models by one name.
  const cache = new HubCache(access.hub === "huggingface" ? root : `${root}/modelscope`, access.repository);
  const about = { hub: access.endpoint, repository: access.repository, revision: access.revision };
  const before = await cache.find(access.revision);
  if (before !== null && (isCommit(access.revision) || isOffline(env))) {
    logger.info({ ...about, directory: before }, "tokenizer files are in the cache");
    return before;
  }
  if (isOffline(env)) {
    throw describeHubFailure(access, "tokenizer.json", new Error(`HF_HUB_OFFLINE is set, and ${root} does not hold it`));
  }
  try {
    const listing = await retrying(deps, about, () => listFiles(deps.fetch, access));
    await cache.prepare();
    for (const file of listing.files) {
      if (!(await cache.has(file.etag))) await download(file, access, cache, deps);
    }
    const directory = await cache.publish(access.revision, listing.commit, listing.files);
    logger.info({ ...about, commit: listing.commit, directory }, "tokenizer files are ready");
    return directory;
  } catch (error) {
    const isRefusal = error instanceof HubAnswerError && !isWorthRetrying(error);
    if (before !== null && !isRefusal) {
      logger.warn({ ...about, directory: before, reason: reasonOf(error) }, "the hub cannot be reached: using the files downloaded before");
      return before;
    }
    throw error instanceof Error && error.name === "KvatlasError" ? error : describeHubFailure(access, "tokenizer.json", error);
  }
}

async function download(file: HubFile, access: HubAccess, cache: HubCache, deps: ModelFilesDeps): Promise<void> {
  const blob = cache.blobPath(file.etag);
  const partial = await beginDownload(blob, file, Date.now());
  const startedAt = performance.now();
  await retrying(deps, { repository: access.repository, file: file.name }, () => continueDownload(deps.fetch, access, partial));
  await finishDownload(partial, blob);
  deps.logger.info(
    { repository: access.repository, file: file.name, bytes: file.sizeBytes, ms: Math.round(performance.now() - startedAt) },
    "tokenizer file downloaded",
  );
}

async function retrying<T>(deps: ModelFilesDeps, about: object, attempt: () => Promise<T>): Promise<T> {
  const wait = deps.wait ?? ((ms: number) => sleep(ms));
  for (const pause of RETRY_AFTER_MS) {
    try {
      return await attempt();
    } catch (error) {
      if (!isWorthRetrying(error)) throw error;
      const asked = error instanceof HubAnswerError ? error.retryAfterMs : null;
      const ms = Math.min(LONGEST_WAIT_MS, asked ?? pause);
      deps.logger.warn({ ...about, reason: reasonOf(error), retryInMs: ms }, "the hub did not answer as hoped: trying again");
      await wait(ms);
    }
  }
  return attempt();
}

function hubAccess(options: ModelFilesOptions, env: ModelFilesDeps["env"]): HubAccess {
  const isHuggingFace = options.hub === "huggingface";
  const endpoint = isHuggingFace ? env.HF_ENDPOINT || "https://huggingface.co" : env.MODELSCOPE_ENDPOINT || "https://modelscope.cn";
  const token = isHuggingFace ? env.HF_TOKEN : env.MODELSCOPE_API_TOKEN;
  return {
    hub: options.hub,
    endpoint: endpoint.replace(/\/+$/, ""),
    repository: options.repository,
    revision: options.revision ?? (isHuggingFace ? "main" : "master"),
    token: token === undefined || token === "" ? null : token,
  };
}

function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

function isOffline(env: ModelFilesDeps["env"]): boolean {
  return ["1", "true", "yes", "on"].includes((env.HF_HUB_OFFLINE ?? "").toLowerCase());
}
