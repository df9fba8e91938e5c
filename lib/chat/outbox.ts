import type { Frame } from "../http/frame.ts";
import type { Viewer } from "../http/viewer.ts";

/** What one viewer is sent in an answer of their own. A slow one gets it later, and the text that has gathered in one piece. */
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
    const gathered = this.#gathered();
    if (gathered) this.#frames.push(gathered);
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

  #gathered(): Frame | null {
    const frame = this.#text === "" ? null : this.#frameOf(this.#text);
    this.#text = "";
    return frame;
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
