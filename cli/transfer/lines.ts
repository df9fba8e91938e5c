const NEWLINE = 0x0a;

/** A line without its end. `whole`: there was one. */
export type Line = { bytes: Buffer; whole: boolean };

/** The lines of what is read, one at a time. Only a line feed ends one: texts hold other separators, such as U+2028. */
export async function* linesOf(source: AsyncIterable<Buffer>): AsyncGenerator<Line> {
  let parts: Buffer[] = [];
  for await (const chunk of source) {
    let from = 0;
    for (let to = chunk.indexOf(NEWLINE); to !== -1; to = chunk.indexOf(NEWLINE, from)) {
      yield { bytes: Buffer.concat([...parts, chunk.subarray(from, to)]), whole: true };
      parts = [];
      from = to + 1;
    }
    if (from < chunk.length) parts.push(chunk.subarray(from));
  }
  if (parts.length > 0) yield { bytes: Buffer.concat(parts), whole: false };
}
