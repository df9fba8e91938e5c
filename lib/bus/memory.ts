import { type Appended, type Author, type Bus, BusError, type BusOptions, type Entry, type Listener } from "./bus.ts";
import { assertFrame } from "./entry.ts";
import { Listeners } from "./listeners.ts";

const SWEEP_MS = 60_000;

/** The bus of a single process, for one machine. No listener is called while a method runs. */
export function openMemory(options: BusOptions): Bus {
  const rooms = new Map<string, Room>();
  const newId = createIds();
  const everyMs = Math.min(options.logMs, SWEEP_MS);
  let timer: NodeJS.Timeout | undefined;
  let isClosed = false;

  const sweep = () => {
    for (const [chat, room] of rooms) if (room.isEmpty) rooms.delete(chat);
    timer = rooms.size > 0 ? setTimeout(sweep, everyMs).unref() : undefined;
  };
  const roomOf = (chat: string): Room => {
    if (isClosed) throw new BusError(new Error("it is closed"));
    const room = rooms.get(chat) ?? new Room(options, newId);
    rooms.set(chat, room);
    timer ??= setTimeout(sweep, everyMs).unref();
    return room;
  };

  return {
    kind: "memory",
    append: async (chat, text, author) => {
      assertFrame(text, author);
      return roomOf(chat).append(text, author);
    },
    since: async (chat, after) => roomOf(chat).since(after),
    subscribe: async (chat, listener) => roomOf(chat).subscribe(listener),
    stop: async (chat, generation, userId) => roomOf(chat).stop(generation, userId),
    take: async (chat, generation) => roomOf(chat).take(generation),
    clear: async (chat, generations, text) => {
      assertFrame(text, undefined);
      roomOf(chat).clear(generations, text);
    },
    ping: async () => {
      if (isClosed) throw new BusError(new Error("it is closed"));
    },
    close: async () => {
      isClosed = true;
      clearTimeout(timer);
      for (const room of rooms.values()) room.listeners.clear();
      rooms.clear();
    },
  };
}

/** Who writes a reply, and how far; without a producer it is settled, and held by whoever took it. */
type Reply = { producer: string | null; n: number; id: string | null; heldUntil: number; until: number };

/** What there is of one chat. Times are those of `performance.now()`, which no change of the clock touches. */
class Room {
  readonly listeners: Listeners;
  readonly #options: BusOptions;
  readonly #newId: () => string;
  #entries: Entry[] = [];
  #until = 0;
  readonly #replies = new Map<string, Reply>();
  readonly #stops = new Map<string, { userId: string; until: number }>();

  constructor(options: BusOptions, newId: () => string) {
    this.#options = options;
    this.#newId = newId;
    this.listeners = new Listeners(options.onError);
  }

  append(text: string | null, author?: Author): Appended {
    const now = performance.now();
    const { leaseMs } = this.#options;
    const stoppedBy = (author && live(this.#stops, author.generation, now)?.userId) ?? null;
    const held = author && live(this.#replies, author.generation, now);
    if (held && held.producer !== author.producer) return { status: "taken", id: null, stoppedBy };
    if (held && (text === null || author.n <= held.n)) {
      held.until = now + leaseMs;
      return { status: "seen", id: author.n === held.n ? held.id : null, stoppedBy };
    }
    if (text === null || (author && !held && !author.opens && author.n > 1)) return { status: "forgotten", id: null, stoppedBy };
    const id = this.#add(text, now);
    if (author) {
      const { generation, producer, n } = author;
      this.#replies.set(generation, { producer, n, id, heldUntil: now + leaseMs, until: now + leaseMs });
    }
    return { status: "appended", id, stoppedBy };
  }

  since(after: string | null): Entry[] | null {
    const entries = this.#log(performance.now());
    const at = after === null ? -1 : entries.findIndex(({ id }) => id === after);
    if (after !== null && at === -1) return null;
    const [first, ...rest] = entries.slice(at + 1);
    // What was before the first of a log is not known, or was nothing.
    return first ? [{ ...first, prev: after }, ...rest] : [];
  }

  subscribe(listener: Listener) {
    const member = this.listeners.add(listener);
    member.joined = true;
    return { renew: () => queueMicrotask(() => this.listeners.missed()), close: () => this.listeners.remove(member) };
  }

  stop(generation: string, userId: string): void {
    const now = performance.now();
    if (!live(this.#stops, generation, now)) this.#stops.set(generation, { userId, until: now + this.#options.logMs });
  }

  take(generation: string): boolean {
    const now = performance.now();
    const held = live(this.#replies, generation, now);
    if (held && (held.producer !== null || now < held.heldUntil)) return false;
    this.#settle(generation, now);
    return true;
  }

  clear(generations: readonly string[], text: string): void {
    const now = performance.now();
    const before = this.#log(now).at(-1)?.id ?? null;
    for (const generation of generations) this.#settle(generation, now);
    this.#entries = [];
    this.#add(text, now, before);
  }

  get isEmpty(): boolean {
    const now = performance.now();
    for (const key of this.#replies.keys()) live(this.#replies, key, now);
    for (const key of this.#stops.keys()) live(this.#stops, key, now);
    return this.#log(now).length + this.#replies.size + this.#stops.size + this.listeners.size === 0;
  }

  #settle(generation: string, now: number): void {
    const { leaseMs, logMs } = this.#options;
    this.#replies.set(generation, { producer: null, n: 0, id: null, heldUntil: now + leaseMs, until: now + logMs });
  }

  #add(text: string, now: number, prev = this.#log(now).at(-1)?.id ?? null): string {
    const entries = this.#log(now);
    const entry = { id: this.#newId(), prev, text };
    entries.push(entry);
    const { logLength, logMs } = this.#options;
    if (entries.length > logLength) entries.shift();
    while (msOf(entries[0]) < msOf(entry) - logMs) entries.shift();
    this.#until = now + logMs;
    queueMicrotask(() => this.listeners.entry(entry));
    return entry.id;
  }

  #log(now: number): Entry[] {
    if (now >= this.#until) this.#entries = [];
    return this.#entries;
  }
}

/** When an entry was written, in milliseconds since 1970. */
const msOf = (entry: Entry | undefined): number => Number(entry?.id.split("-", 1)[0]);

/** What is at the key and not past its time. */
function live<T extends { until: number }>(map: Map<string, T>, key: string, now: number): T | undefined {
  const value = map.get(key);
  if (!value || now < value.until) return value;
  map.delete(key);
  return undefined;
}

/** Ids like those of a Redis: milliseconds since 1970 and a number within them, always larger than the one before. */
function createIds(): () => string {
  let ms = 0;
  let seq = 0;
  return () => {
    const now = Math.floor(performance.timeOrigin + performance.now());
    seq = now > ms ? 0 : seq + 1;
    ms = Math.max(ms, now);
    return `${ms}-${seq}`;
  };
}
