/** The tables of plan.mjs: what one of each thing asks, and what so many of them cost in a month. */
import { monthly, neonMonth } from "./prices.mjs";

/**
 * @typedef {import("../parts/plan.mjs").Counted} Counted
 * @typedef {import("./print.mjs").Cells} Cells
 * @typedef {ReturnType<typeof monthOf>} Month
 */

const WORKING_HOURS = 8;
const ALL_DAY = 24;

/** What `perDay` of it cost: within a working day and, where that is another pattern, around the clock. */
export function monthOf(/** @type {Counted} */ counted, /** @type {number} */ perDay) {
  const { what, trips, storeSeconds, functionMs, lasts } = counted;
  // As many at a time as share the instance.
  const lastingHours = Math.min(ALL_DAY, (perDay * functionMs) / 3_600_000);
  const load = { perDay, seconds: storeSeconds };
  const never = { awakeHoursPerDay: 0, cuHours: 0, dollars: 0 };
  const neon = (/** @type {number} */ hours) => (trips === 0 ? never : neonMonth({ ...load, hours }));
  return {
    what,
    ...monthly(counted, perDay),
    neon: neon(lasts ? lastingHours : WORKING_HOURS),
    neonAllDay: lasts ? null : neon(ALL_DAY),
  };
}

/** @returns {Cells} */
export function countCells(/** @type {Counted[]} */ counted) {
  const heading = ["one of", "", "round trips to the store", "Redis commands", "function time"];
  return [
    heading,
    ...counted.map(({ what, remark, trips, commands, functionMs }) => [
      what,
      remark,
      figure(trips),
      figure(commands),
      `${figure(functionMs / 1000)} s`,
    ]),
  ];
}

/** @returns {Cells} */
export function monthCells(/** @type {Month[]} */ months) {
  const heading = [
    "",
    "vCPU seconds",
    "Google",
    "Redis commands",
    "Upstash",
    "Neon, within 8 hours a day",
    "Neon, around the clock",
  ];
  return [
    heading,
    ...months.map((month) => [
      month.what,
      whole(month.vcpuSeconds),
      dollars(month.functionDollars),
      whole(month.commands),
      dollars(month.redisDollars),
      neonCell(month.neon),
      month.neonAllDay === null ? "" : neonCell(month.neonAllDay),
    ]),
  ];
}

function neonCell(/** @type {ReturnType<typeof neonMonth>} */ { awakeHoursPerDay, cuHours, dollars: cost }) {
  return `${awakeHoursPerDay.toFixed(1)} h awake, ${whole(cuHours)} CU hours, ${dollars(cost)}`;
}

function dollars(/** @type {number} */ value) {
  return value === 0 ? "free" : `$${value.toFixed(2)}`;
}

function whole(/** @type {number} */ value) {
  return Math.round(value).toLocaleString("en");
}

function figure(/** @type {number} */ value) {
  return String(Number(value.toPrecision(3)));
}
