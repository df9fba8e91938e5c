/** A reader that has seen enough (`| head`) is no error. */
export function outputFailed(error: NodeJS.ErrnoException): void {
  if (error.code === "EPIPE") process.exit();
  console.error(`Standard output cannot be written (${error.code ?? "no reason given"}).`);
  process.exit(1);
}
