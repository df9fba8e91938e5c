import { once } from "node:events";
import { type ClientRequest, type IncomingMessage, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import type { Person } from "../support/app.ts";

type Said = { message: { id: string; prompt: string; reply: string }; partial: boolean };

/** How long a client waits before it comes back, as an EventSource does. */
const AGAIN_MS = 20;

/**
 * A client that watches a chat through anything: when its connection goes it comes back with the id of the last event that it
 * has, and it makes messages of what it hears. What it hears must at any time be the beginning of the whole reply.
 */
export class Follower {
  /** By prompt: what was streamed, and the whole once that came. */
  readonly streamed = new Map<string, string>();
  readonly whole = new Map<string, string>();
  readonly ends = new Map<string, number>();
  /** What was heard that was not the next piece of a reply. */
  readonly wrong: string[] = [];
  connections = 0;
  readonly #expected: ReadonlyMap<string, string>;
  readonly #url: string;
  readonly #person: Person;
  #lastEventId: string | null = null;
  #current: ClientRequest | null = null;
  #left = false;
  readonly done: Promise<void>;

  constructor(url: string, person: Person, expected: ReadonlyMap<string, string>) {
    this.#url = url;
    this.#person = person;
    this.#expected = expected;
    this.done = this.#follow();
  }

  leave(): Promise<void> {
    this.#left = true;
    this.#current?.destroy();
    return this.done;
  }

  async #follow(): Promise<void> {
    while (!this.#left) {
      try {
        await this.#connect();
      } catch {
        // Connections break here on purpose.
      }
      await sleep(AGAIN_MS);
    }
  }

  async #connect(): Promise<void> {
    const headers = {
      authorization: `Bearer ${this.#person.token}`,
      ...(this.#lastEventId !== null && { "last-event-id": this.#lastEventId }),
    };
    const req = request(this.#url, { headers, agent: false });
    this.#current = req;
    // Told by the response as well; without a listener it would end the process.
    req.on("error", () => {}).end();
    const [res] = (await once(req, "response")) as [IncomingMessage];
    if (res.statusCode !== 200) this.wrong.push(`the stream answered ${res.statusCode}`);
    this.connections++;
    let rest = "";
    for await (const text of res.setEncoding("utf8")) {
      const events = (rest + text).split("\n\n");
      rest = events.pop() ?? "";
      for (const event of events) this.#hear(event);
    }
  }

  #hear(event: string): void {
    let data = "";
    let name = "message";
    for (const line of event.split("\n")) {
      if (line.startsWith("id: ")) this.#lastEventId = line.slice(4);
      else if (line.startsWith("event: ")) name = line.slice(7);
      else if (line.startsWith("data: ")) data = line.slice(6);
    }
    if (name === "message") this.#take(JSON.parse(data) as Said);
  }

  #take({ message: { prompt, reply }, partial }: Said): void {
    const whole = this.#expected.get(prompt) ?? "";
    if (!partial) {
      if (reply !== whole) this.wrong.push(`the end of ${prompt} is not the whole: ${reply.length} of ${whole.length}`);
      this.whole.set(prompt, reply);
      this.ends.set(prompt, (this.ends.get(prompt) ?? 0) + 1);
      return;
    }
    const text = reply === "" ? "" : (this.streamed.get(prompt) ?? "") + reply;
    if (!whole.startsWith(text)) this.wrong.push(`${prompt} is not ${JSON.stringify(text.slice(-60))} at ${text.length}`);
    this.streamed.set(prompt, text);
  }
}
