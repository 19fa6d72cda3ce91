import type { ChildProcess } from "node:child_process";

/** Children that must not outlive this process. One listener for all of them: Node warns of more than ten for an event. */
const children = new Set<ChildProcess>();

/** The child is killed when this process exits, unless the answer has been called before. */
export function endsWithThisProcess(child: ChildProcess): () => void {
  if (children.size === 0) process.on("exit", killAll);
  children.add(child);
  return () => {
    if (children.delete(child) && children.size === 0) process.off("exit", killAll);
  };
}

function killAll(): void {
  for (const child of children) child.kill("SIGKILL");
}
