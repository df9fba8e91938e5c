import { StringDecoder } from "node:string_decoder";
import { type Dispatcher, request } from "undici";
import type { Attempt } from "./line.ts";

/** Where subscriptions are asked for, and with what. */
export type Endpoint = { url: string; token: string; agent: Dispatcher };

/** More than any frame has. A line that is longer is not from us. */
const LONGEST_LINE = 4 << 20;

/**
 * Reads `GET /subscribe/<channel>`: server-sent events whose data are `subscribe,<channel>,1`, and then
 * `message,<channel>,<message>` for each message. A stream on which nothing comes is never given up.
 */
export function subscribe({ url, token, agent }: Endpoint, channel: string, deliver: (message: string) => void): Attempt {
  const closing = new AbortController();
  const acknowledgement = `subscribe,${channel},`;
  const prefix = `message,${channel},`;
  const read = async (acknowledge: () => void): Promise<void> => {
    const { statusCode, body } = await request(`${url}/subscribe/${channel}`, {
      dispatcher: agent,
      headers: { authorization: `Bearer ${token}`, accept: "text/event-stream" },
      signal: closing.signal,
      headersTimeout: 0,
      bodyTimeout: 0,
    });
    if (statusCode !== 200) {
      body.destroy();
      throw new Error(`a subscription was answered with ${statusCode}`);
    }
    const push = dataLines((data) => {
      if (data.startsWith(prefix)) deliver(data.slice(prefix.length));
      else if (data.startsWith(acknowledgement)) acknowledge();
    });
    for await (const chunk of body) push(chunk as Buffer);
  };

  let over = Promise.resolve();
  const up = new Promise<void>((resolve, reject) => {
    const ended = () => reject(new Error("the stream ended before it began"));
    over = read(resolve).then(ended, reject);
  });
  const close = () => closing.abort();
  return { up, over, leave: close, cut: close };
}

/** Finds the data of each event, however the bytes are cut. Throws where a line does not end. */
function dataLines(found: (data: string) => void): (chunk: Buffer) => void {
  const decoder = new StringDecoder("utf8");
  let rest = "";
  return (chunk) => {
    const text = decoder.write(chunk);
    const lines = text.split("\n");
    lines[0] = rest + lines[0];
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("data:")) found(line.replace(/^data: ?|\r$/g, ""));
    if (rest.length > LONGEST_LINE) throw new Error("a line without an end");
  };
}
