/** One line of JSON per event. Lines of one turn of the event loop are written together. */
export type Log = (line: { severity: "INFO" | "WARNING" | "ERROR"; message: string } & Record<string, unknown>) => void;

/** Writes to `out` (standard output); nothing is kept longer than a turn, and the rest goes out when the process ends. */
export function createLog(out: { write(text: string): unknown } = process.stdout): Log {
  let lines = "";
  let time = "";
  const flush = () => {
    if (lines === "") return;
    const text = lines;
    lines = "";
    out.write(text);
  };
  process.once("exit", flush);
  return (line) => {
    if (lines === "") {
      time = new Date().toISOString();
      setImmediate(flush);
    }
    lines += `${JSON.stringify({ time, ...line })}\n`;
  };
}

/** What a log line says of a thrown value: never its message's data, always where it came from. */
export function describeError(thrown: unknown) {
  if (!(thrown instanceof Error)) return { error: typeof thrown };
  const cause = thrown.cause instanceof Error ? `${thrown.cause.name}: ${thrown.cause.message}` : undefined;
  return { error: `${thrown.name}: ${thrown.message}`, cause, stack: thrown.stack };
}
