/** The type ids of Postgres' date and time types, whose text drizzle's columns decode themselves. */
const TEMPORAL = new Set([1082, 1083, 1114, 1184, 1186]);

type Types = { getTypeParser(oid: number, format?: "text"): unknown };

/** How raw rows are decoded, the same over TCP and HTTP: times stay text, everything else as the driver has it. */
export const temporalAsText = <T extends Types>(types: T): T =>
  ({
    getTypeParser: (oid: number, format?: "text") =>
      TEMPORAL.has(oid) ? (text: string) => text : types.getTypeParser(oid, format),
  }) as T;
