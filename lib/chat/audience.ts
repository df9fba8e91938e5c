import type { Frame } from "../http/frame.ts";
import type { Viewer } from "../http/viewer.ts";

/** How much of what was said is kept for those who lag, in frames and in characters. */
const MOST_FRAMES = 1_024;
const MOST_CHARACTERS = 4 * 1024 * 1024;

/** One viewer's place: what is still to be sent before the frames that all get, and the number of the next of those. */
type Seat = { viewer: Viewer; first: Frame[]; next: number; full: boolean };

/**
 * Those who watch one chat. Every frame is kept once, for all of them; a viewer whose connection is full is left out, and
 * catches up from what is kept when there is room again. One who lags behind that is sent away, to come back and resume.
 */
export class Audience {
  readonly #seats = new Set<Seat>();
  /** Whether what a frame tells of has expired. */
  readonly #isOver: (frame: Frame) => boolean;
  #kept: Frame[] = [];
  /** The number of the first frame that is kept. */
  #start = 0;
  #characters = 0;
  #place = "";

  constructor(isOver: (frame: Frame) => boolean) {
    this.#isOver = isOver;
  }

  get isEmpty(): boolean {
    return this.#seats.size === 0;
  }

  /** The id of the last frame that has one, from which somebody who has seen all of it resumes. */
  get place(): string {
    return this.#place;
  }

  say(frame: Frame): void {
    const isOver = this.#isOver(frame);
    this.#place = frame.id ?? this.#place;
    this.#kept.push(frame);
    this.#characters += frame.data.length;
    const number = this.#start + this.#kept.length - 1;
    for (const seat of this.#seats) {
      if (seat.full || seat.first.length > 0 || seat.next !== number) continue;
      seat.next++;
      if (!isOver) seat.full = !seat.viewer.send(frame);
    }
    if (this.#kept.length > 2 * MOST_FRAMES || this.#characters > 2 * MOST_CHARACTERS) this.#forget();
  }

  /** Seats a viewer, who gets `first`, then every frame behind the one with this id, or from now on. False: that one is not kept. */
  seat(viewer: Viewer, after: string | null, first: Frame[] = []): boolean {
    const index = after === null ? this.#kept.length - 1 : this.#kept.findLastIndex(({ id }) => id === after);
    if (after !== null && index < 0) return false;
    this.#catchUp(this.#sit(viewer, first, this.#start + index + 1));
    return true;
  }

  /** What was said behind the frame with this id; null where that one is not kept. */
  behind(after: string): Frame[] | null {
    const index = this.#kept.findLastIndex(({ id }) => id === after);
    return index < 0 ? null : this.#kept.slice(index + 1).filter((frame) => !this.#isOver(frame));
  }

  /** Seats a viewer who gets nothing yet; what is said from now on follows what the answer is called with. */
  hold(viewer: Viewer): (first: Frame[]) => void {
    const seat = this.#sit(viewer, [], this.#start + this.#kept.length);
    seat.full = true;
    return (first) => {
      if (!this.#seats.has(seat)) return;
      Object.assign(seat, { first, full: false });
      this.#catchUp(seat);
    };
  }

  /** Forgets all that was said, also what was still to be sent. */
  clear(): void {
    this.#start += this.#kept.length;
    this.#kept = [];
    this.#characters = 0;
    for (const seat of this.#seats) Object.assign(seat, { first: [], next: this.#start });
  }

  leave(viewer: Viewer): void {
    for (const seat of this.#seats) if (seat.viewer === viewer) this.#seats.delete(seat);
    viewer.onDrain = null;
  }

  /** A viewer has one seat, however often they ask for one, and none once they have left. */
  #sit(viewer: Viewer, first: Frame[], next: number): Seat {
    this.leave(viewer);
    const seat: Seat = { viewer, first, next, full: false };
    if (viewer.closed) return seat;
    this.#seats.add(seat);
    viewer.onDrain = () => {
      seat.full = false;
      this.#catchUp(seat);
    };
    return seat;
  }

  #catchUp(seat: Seat): void {
    const { viewer } = seat;
    while (!seat.full && !viewer.closed) {
      const own = seat.first.shift();
      if (!own && seat.next < this.#start) viewer.end("lagged");
      const frame = own ?? this.#kept[seat.next - this.#start];
      if (!frame) return;
      if (!own) seat.next++;
      if (this.#isOver(frame)) continue;
      seat.full = !viewer.send(frame);
    }
  }

  #forget(): void {
    let from = Math.max(0, this.#kept.length - MOST_FRAMES);
    let characters = this.#kept.slice(from).reduce((sum, { data }) => sum + data.length, 0);
    while (characters > MOST_CHARACTERS) characters -= this.#kept[from++]?.data.length ?? 0;
    this.#kept = this.#kept.slice(from);
    this.#start += from;
    this.#characters = characters;
  }
}
