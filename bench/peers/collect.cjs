// Preloaded with `node --expose-gc -r` where memory is measured: SIGUSR2 collects garbage, so that what is held can be
// compared, and writes how much that is into the file that COLLECTED_FILE names.
const fs = require("node:fs");

process.on("SIGUSR2", () => {
  globalThis.gc();
  const { heapUsed, external } = process.memoryUsage();
  fs.writeFileSync(process.env.COLLECTED_FILE, JSON.stringify({ heldMiB: (heapUsed + external) / 2 ** 20 }));
});
