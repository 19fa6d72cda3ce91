import type { ServerResponse } from "node:http";
import type { ServedModel } from "../models/model-catalogue.ts";
import { HttpError } from "../request/openai-error.ts";
import { answerJson } from "./answer.ts";

/** `GET /v1/models` and `/v1/models/{id}` for the whole fleet. */
export function answerModels(response: ServerResponse, path: string, models: readonly ServedModel[]): void {
  if (path === "/v1/models") {
    answerJson(response, 200, { object: "list", data: models });
    return;
  }
  const wanted = decoded(path.slice("/v1/models/".length));
  const model = models.find(({ id }) => id === wanted);
  if (model === undefined) throw new HttpError(404, `The model \`${wanted.slice(0, 200)}\` does not exist.`, { param: "model" });
  answerJson(response, 200, model);
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
