/** Is aborted when the operator or the system asks this process to stop; a second time ends it at once. */
export function interruption(): AbortSignal {
  const stopping = new AbortController();
  process.once("SIGINT", () => stopping.abort()).once("SIGTERM", () => stopping.abort());
  return stopping.signal;
}
