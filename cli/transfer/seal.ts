import { crc32 } from "node:zlib";

/** `,"sum":"89abcdef"}` */
const SUM_BYTES = 18;
const SEALED = /^,"sum":"([0-9a-f]{8})"\}$/;

/** Ends each record's line with a checksum of it and of all lines before, so that one that is changed, lost or moved is found. */
export function sealer(): (record: object) => string {
  let sum = 0;
  return (record) => {
    const body = JSON.stringify(record).slice(0, -1);
    sum = crc32(body, sum);
    return `${body},"sum":"${hex(sum)}"}\n`;
  };
}

/** Takes lines in their order. Answers what each holds, or null where it is not as it was written. */
export function unsealer(): (line: Buffer) => Record<string, unknown> | null {
  let sum = 0;
  return (line) => {
    const body = line.subarray(0, -SUM_BYTES);
    const [, given] = SEALED.exec(line.subarray(-SUM_BYTES).toString("latin1")) ?? [];
    if (given === undefined || given !== hex(crc32(body, sum))) return null;
    sum = crc32(body, sum);
    try {
      return JSON.parse(`${body.toString("utf8")}}`);
    } catch {
      return null;
    }
  };
}

const hex = (sum: number) => sum.toString(16).padStart(8, "0");
