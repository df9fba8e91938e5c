import { expect, test } from "vitest";
import { csvLine } from "../cli/print/csv.ts";
import { json } from "../cli/print/printer.ts";
import { type Column, table } from "../cli/print/table.ts";

test("a table fits its terminal: wide letters count twice, ids are cut last, and what is spare goes first", () => {
  const columns: Column<string[]>[] = [
    { title: "ID", text: ([id]) => id ?? "", whole: true },
    { title: "SPARE", text: () => "spare", spare: true },
    { title: "NAME", text: ([, name]) => name ?? "" },
  ];
  const record = ["0123456789", "日本語日本語\u001b[31m"];
  expect(table(columns, 100)([record])).toEqual(["ID          SPARE  NAME", "0123456789  spare  日本語日本語\\x1b[31m"]);
  expect(table(columns, 20)([record])).toEqual(["ID          NAME", "0123456789  日本語…"]);
});

test("CSV is quoted as RFC 4180 says, and no cell is a formula", () => {
  expect(csvLine(["a,b", 'say "hi"', "one\r\ntwo", null, 3, false, "-"])).toBe('"a,b","say ""hi""","one\r\ntwo",,3,false,\'-');
  for (const formula of ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "＝1"]) expect(csvLine([formula])).toBe(`'${formula}`);
  expect(csvLine(["\n=1"])).toBe(`"'\n=1"`);
  expect(csvLine(["a\rb\u001b[31m"])).toBe("a\\rb\\x1b[31m");
});

test("JSON keeps its value where a terminal would have obeyed it", () => {
  const record = { text: "\u001b[31m\u009b31m\u007f\u202e\u2028\u{e0041}日本語 👩\u200d🚀" };
  expect(JSON.parse(json(record))).toEqual(record);
  expect(json(record)).toBe(String.raw`{"text":"\u001b[31m\u009b31m\u007f\u202e\u2028\udb40\udc41日本語 👩‍🚀"}`);
});
