import { expect, test } from "vitest";
import { progress } from "../cli/print/progress.ts";

test("progress is a bar on a terminal, else a line every three seconds", () => {
  const drawn = (isTTY: boolean, total?: number) => {
    const written: string[] = [];
    let now = 0;
    const shown = progress({ isTTY, columns: 100, write: (text: string) => written.push(text) > 0 }, total, () => now);
    for (const [at, rows] of [
      [50, 500],
      [1_000, 1_500],
      [3_100, 4_200],
      [3_150, 1],
    ] as const) {
      now = at;
      shown.add("messages", rows);
    }
    shown.end();
    return written;
  };
  expect(drawn(false, 12_400)).toEqual(["messages: 6,200 of 12,400 rows, 50%, 2,000 rows/s\n"]);
  expect(drawn(false)).toEqual(["messages: 6,200 rows, 2,000 rows/s\n"]);
  expect(drawn(true, 12_400)).toEqual([
    "\r\u001b[2K[###-----------------] messages: 2,000 of 12,400 rows, 16%, 2,000 rows/s",
    "\r\u001b[2K[##########----------] messages: 6,200 of 12,400 rows, 50%, 2,000 rows/s",
    "\r\u001b[2K",
  ]);
});
