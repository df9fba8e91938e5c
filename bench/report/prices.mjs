/** What the services charge, as their pages say, and what a month of counted work costs by that. Dollars, and a month of 30 days. */

/** `read`: the day of the page, or where it has none, the day on which it was read. */
export const PRICES = {
  functions: {
    source: "https://cloud.google.com/run/pricing, request-based billing in a tier 1 region",
    read: "2026-11-29",
    vcpuSecond: 0.000024,
    gibSecond: 0.0000025,
    millionRequests: 0.4,
    free: { vcpuSeconds: 180_000, gibSeconds: 360_000, requests: 2_000_000 },
    /** Time is rounded up to this. */
    stepMs: 100,
  },
  redis: {
    source: "https://upstash.com/docs/redis/overall/billing",
    read: "2026-11-29",
    hundredThousandCommands: 0.2,
    free: { commands: 500_000 },
  },
  neon: {
    source: "https://neon.com/docs/introduction/plans, the Launch plan beyond the Free one",
    read: "2026-11-12",
    cuHour: 0.106,
    /** As the page had it on 2026-03-20. */
    free: { cuHours: 100 },
    /** The smallest compute. */
    cu: 0.25,
    sleepsAfterSeconds: 300,
  },
};

/** What deploy.sh gives an instance, and how many requests share one. */
export const INSTANCE = { vcpu: 1, gib: 0.5, concurrency: 80 };

const DAYS = 30;
const HOUR_S = 3_600;

/**
 * What `perDay` of something cost in a month when each has its instance to itself.
 * @param {{ requests: number, commands: number, billedSeconds: number }} one
 * @param {number} perDay
 */
export function monthly({ requests, commands, billedSeconds }, perDay) {
  const { functions, redis } = PRICES;
  const times = perDay * DAYS;
  const vcpuSeconds = billedSeconds * times * INSTANCE.vcpu;
  const gibSeconds = billedSeconds * times * INSTANCE.gib;
  const functionDollars =
    beyond(vcpuSeconds, functions.free.vcpuSeconds) * functions.vcpuSecond +
    beyond(gibSeconds, functions.free.gibSeconds) * functions.gibSecond +
    (beyond(requests * times, functions.free.requests) / 1e6) * functions.millionRequests;
  // Upstash's free database and one that is paid are two plans: whoever pays, pays from the first command on.
  const redisDollars = commands * times > redis.free.commands ? ((commands * times) / 1e5) * redis.hundredThousandCommands : 0;
  return { vcpuSeconds, gibSeconds, functionDollars, commands: commands * times, redisDollars };
}

/**
 * How long a compute is awake that is asked `perDay` times, evenly within so many hours of each day: it sleeps once nobody
 * has asked for five minutes.
 * @param {{ perDay: number, hours: number, seconds: number }} load `seconds`: from the first to the last that each asks
 */
export function neonMonth({ perDay, hours, seconds }) {
  const { cu, cuHour, free, sleepsAfterSeconds } = PRICES.neon;
  const everySeconds = (hours * HOUR_S) / perDay;
  const each = Math.min(everySeconds, seconds + sleepsAfterSeconds);
  const awakeHours = Math.min(24, (each * perDay + (each < everySeconds ? 0 : sleepsAfterSeconds)) / HOUR_S);
  const cuHours = awakeHours * DAYS * cu;
  return { awakeHoursPerDay: awakeHours, cuHours, dollars: cuHours > free.cuHours ? cuHours * cuHour : 0 };
}

/** @returns {number} seconds, as they are billed */
export function billed(/** @type {number} */ ms) {
  return (Math.ceil(ms / PRICES.functions.stepMs) * PRICES.functions.stepMs) / 1000;
}

function beyond(/** @type {number} */ used, /** @type {number} */ free) {
  return Math.max(0, used - free);
}
