import * as pg from "drizzle-orm/pg-core";
import * as lite from "drizzle-orm/sqlite-core";

/** The column vocabulary of both dialects; a table is written once, in these words. */
export const postgres = {
  table: pg.pgTable,
  text: (name: string) => pg.text(name),
  int: (name: string) => pg.integer(name),
  /** A whole number up to 2^53. */
  big: (name: string) => pg.bigint(name, { mode: "number" }),
  flag: (name: string) => pg.boolean(name),
  /** An instant, to the millisecond. */
  time: (name: string) => pg.timestamp(name, { withTimezone: true, precision: 3 }),
  json: (name: string) => pg.jsonb(name),
  index: pg.index,
  unique: pg.uniqueIndex,
  key: pg.primaryKey,
};

export type Kit = typeof postgres;

/** The one place where SQLite's columns take Postgres' types, so that every query is written and checked once. */
export const sqlite = {
  table: lite.sqliteTable,
  text: (name: string) => lite.text(name),
  int: (name: string) => lite.integer(name),
  big: (name: string) => lite.integer(name),
  flag: (name: string) => lite.integer(name, { mode: "boolean" }),
  time: (name: string) => lite.integer(name, { mode: "timestamp_ms" }),
  json: (name: string) => lite.text(name, { mode: "json" }),
  index: lite.index,
  unique: lite.uniqueIndex,
  key: lite.primaryKey,
} as unknown as Kit;
