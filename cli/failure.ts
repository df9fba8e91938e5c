/** What a command could not do, in the one line to print. `exitCode` 2: it was used wrongly; 130: it was interrupted. */
export class Failure extends Error {
  override readonly name = "Failure";
  readonly exitCode: 1 | 2 | 130;
  constructor(message: string, exitCode: 1 | 2 | 130 = 1) {
    super(message);
    this.exitCode = exitCode;
  }
}
