/** What a publisher says of itself in its topic. */
export interface EventTopic {
  /** Host, with brackets for IPv6. */
  readonly host: string;
  /** Port of the HTTP server; null when the topic names none. */
  readonly port: number | null;
  readonly model: string;
}

const topicForm = /^kv@(\[[0-9a-fA-F:.]+\]|[^@:\s/]+)(?::(\d{1,5}))?@(.+)$/s;
const maxTopicLength = 1024;

/**
 * Reads `kv@<ip[:port]>@<model>`, the convention of llm-d's vLLM deployments. A model name may contain `@`.
 * Null for anything else, the empty topic included: such a publisher cannot be told apart from others.
 */
export function parseTopic(topic: string): EventTopic | null {
  if (topic.length > maxTopicLength) return null;
  const match = topicForm.exec(topic);
  const [, host, portText, model] = match ?? [];
  if (host === undefined || model === undefined) return null;
  const port = portText === undefined ? null : Number(portText);
  if (port !== null && (port < 1 || port > 65_535)) return null;
  return { host, port, model };
}
