// Preloaded into a process: SIGUSR2 ends one of its worker threads, as a crash would.
const workers = [];

process.on("worker", (worker) => {
  // The loader's own thread is none of them.
  if (worker.constructor.name !== "Worker") return;
  workers.push(worker);
  worker.once("exit", () => workers.splice(workers.indexOf(worker), 1));
});

process.on("SIGUSR2", () => void workers[0]?.terminate());
