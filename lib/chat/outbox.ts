import type { Frame } from "../http/frame.ts";
import type { Viewer } from "../http/viewer.ts";

/** The most text in one frame, in UTF-16 units: some clients read no longer lines, and others read long ones slowly. */
const MOST = 16_384;

/** What one viewer is sent in an answer of their own. A slow one gets it later, and the text that has gathered in few pieces. */
export class Outbox {
  readonly #viewer: Viewer;
  readonly #frameOf: (text: string) => Frame;
  #frames: Frame[] = [];
  #text = "";
  #full = false;
  #emptied = () => {};

  constructor(viewer: Viewer, frameOf: (text: string) => Frame) {
    this.#viewer = viewer;
    this.#frameOf = frameOf;
    viewer.onDrain = () => {
      this.#full = false;
      this.#flush();
    };
    viewer.onClose = () => this.#emptied();
  }

  add(text: string): void {
    this.#text += text;
    this.#flush();
  }

  say(...frames: Frame[]): void {
    for (let piece = this.#gathered(); piece; piece = this.#gathered()) this.#frames.push(piece);
    this.#frames.push(...frames);
    this.#flush();
  }

  /** Resolves when all is sent, or nobody is there to send it to. */
  async empty(): Promise<void> {
    while (!this.#viewer.closed && (this.#frames.length > 0 || this.#full)) {
      await new Promise<void>((resolve) => {
        this.#emptied = resolve;
      });
    }
  }

  /** As much of the text that has gathered as a frame takes, without half a character. */
  #gathered(): Frame | null {
    const text = this.#text.slice(0, MOST).replace(/[\uD800-\uDBFF]$/, "");
    this.#text = this.#text.slice(text.length);
    return text === "" ? null : this.#frameOf(text);
  }

  #flush(): void {
    while (!this.#full && !this.#viewer.closed) {
      const frame = this.#frames.shift() ?? this.#gathered();
      if (!frame) break;
      this.#full = !this.#viewer.send(frame);
    }
    if (!this.#full && this.#frames.length === 0) this.#emptied();
  }
}
