import { BusError } from "../bus/bus.ts";
import type { Deps } from "../deps.ts";
import { describeError } from "../log.ts";
import type { MessageView } from "../repo/messages.ts";
import { begun, ended, type Told } from "./told.ts";

/** How long text is gathered before it is sent on: quick at first, when people wait, then sparing. */
const WINDOWS: readonly (readonly [untilMs: number, windowMs: number])[] = [
  [1_000, 60],
  [5_000, 120],
  [Number.POSITIVE_INFINITY, 250],
];
/** How often a reply whose model is silent says that it is alive, and hears who wants it stopped. */
const BEATS: typeof WINDOWS = [
  [5_000, 400],
  [Number.POSITIVE_INFINITY, 2_000],
];
/** How long the end of a reply waits for a bus that does not answer, and how long it is tried after that. */
const END_PATIENCE_MS = 300;
const END_TRIED_MS = 10_000;
/** The most text in one frame, in UTF-16 units. */
const MOST = 32_768;

export type Publisher = {
  /** More of the reply. */
  add(text: string): void;
  /** Tells all of the text from now on, so that it is not lost with this process. */
  reveal(): void;
  /**
   * Sends what is left and the end, or that the message is gone. Resolves when the bus has it, or after a moment when it does
   * not answer; it is then tried for some time.
   */
  end(message: MessageView | null): Promise<void>;
  /** Says nothing more, unless the end is under way; the lease runs out. */
  close(): void;
  /** True while the bus does not answer, so that nobody can be heard. */
  readonly unheard: boolean;
};
type Frame = { text: string | null; n: number; opens: boolean; last: boolean };

/**
 * Tells the bus of a reply as it is made. One flush is in flight at a time; a frame that the bus did not acknowledge is sent
 * again as it was, under its number, so that nothing is doubled. A bus that has forgotten the reply is told of it anew; one
 * where it was settled by somebody else is told nothing more but the end. Without `partial`, only that there is one, and its end.
 * `onStop` hears who wants the reply stopped.
 */
export function createPublisher(
  { bus, log }: Pick<Deps, "bus" | "log">,
  message: MessageView,
  partial: boolean,
  onStop: (userId: string) => void,
  isThere: () => Promise<boolean>,
): Publisher {
  const { id, seq, requestId: generation, requestId: producer, chatId } = message;
  const startedMs = performance.now();
  let revealed = partial;
  let reply = "";
  /** How much of the reply is in frames that were made. */
  let framed = 0;
  let n = 0;
  let pending: Frame | null = null;
  let closing: Told | null = null;
  let unheard = false;
  let taken = false;
  let running = false;
  let over = false;
  let timer: NodeJS.Timeout | undefined;
  let lastTry: NodeJS.Timeout | undefined;
  let flushedMs = Number.NEGATIVE_INFINITY;
  let resolveEnd = () => {};
  const whenOver = new Promise<void>((resolve) => {
    resolveEnd = resolve;
  });

  const frame = (told: Told, { opens = false, last = false } = {}): Frame => ({
    text: JSON.stringify(told),
    n: ++n,
    opens,
    last,
  });
  const anew = (): Frame => {
    const text = cut(reply, 0);
    framed = text.length;
    return frame(begun(message, text), { opens: true });
  };
  const next = (): Frame => {
    if (n === 0) return anew();
    if (revealed && framed < reply.length && !taken) {
      const at = framed;
      const text = cut(reply, at);
      framed += text.length;
      return frame({ t: "delta", id, at, text });
    }
    if (closing) return frame(closing, { opens: true, last: true });
    return { text: null, n, opens: false, last: false };
  };

  const flush = async () => {
    running = true;
    timer = undefined;
    flushedMs = performance.now();
    pending ??= next();
    const { text, n: number, opens, last } = pending;
    try {
      // The end of a reply that somebody else has settled is still told: its producer knows better.
      const { status, stoppedBy } = await bus.append(
        chatId,
        text,
        taken ? undefined : { generation, producer, n: number, opens },
      );
      pending = null;
      unheard = false;
      if (stoppedBy !== null) onStop(stoppedBy);
      if (status === "taken") {
        taken = true;
        // It was settled by somebody else, or cleared after it had ended.
        if (closing && !(await isThere())) closing = { t: "deleted", id, seq };
      } else if (status === "forgotten") pending = anew();
      else if (last) over = true;
    } catch (error) {
      unheard = true;
      // The frame stays pending. A bus that is down is known to be, and the store has the reply in the end.
      if (!(error instanceof BusError)) log({ severity: "ERROR", message: "frame not sent", ...describeError(error) });
    }
    running = false;
    if (over) finish();
    else schedule();
  };
  const schedule = () => {
    if (running || over || (taken && !closing)) return;
    clearTimeout(timer);
    const nowMs = performance.now();
    const news = n === 0 || pending !== null || (revealed && framed < reply.length) || closing !== null;
    // Nothing more will come, so what is left need not wait for company.
    const interval = closing && !pending ? 0 : intervalAt(news ? WINDOWS : BEATS, nowMs - startedMs);
    const dueMs = flushedMs + interval;
    if (news && dueMs <= nowMs) void flush();
    else timer = setTimeout(flush, Math.max(1, dueMs - nowMs)).unref();
  };
  const finish = () => {
    over = true;
    clearTimeout(timer);
    clearTimeout(lastTry);
    resolveEnd();
  };

  schedule();
  return {
    add: (text) => {
      reply += text;
      schedule();
    },
    reveal: () => {
      revealed = true;
      schedule();
    },
    end: async (final) => {
      closing = final ? ended(final) : { t: "deleted", id, seq };
      schedule();
      const late = setTimeout(resolveEnd, END_PATIENCE_MS);
      lastTry = setTimeout(finish, END_TRIED_MS).unref();
      await whenOver;
      clearTimeout(late);
    },
    close: () => {
      if (!closing) finish();
    },
    get unheard() {
      return unheard;
    },
  };
}

const intervalAt = (steps: typeof WINDOWS, elapsedMs: number): number =>
  (steps.find(([untilMs]) => elapsedMs < untilMs) ?? [0, 250])[1];

/** A piece of a text that does not end between the halves of a character. */
function cut(text: string, from: number): string {
  const to = Math.min(text.length, from + MOST);
  const half = to < text.length && (text.charCodeAt(to - 1) & 0xfc00) === 0xd800;
  return text.slice(from, half ? to - 1 : to);
}
