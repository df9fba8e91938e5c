import { describe, expect, test } from "vitest";
import { Frame } from "../../lib/http/frame.ts";
import { belongsInBody, withoutSecrets } from "../../lib/http/secrets.ts";
import { mintToken, ticketHash, tokenHash } from "../../lib/token.ts";

test("a frame is encoded once, however many get it", () => {
  const frame = new Frame('{"a":1}', { id: "1" });
  expect(frame.sse).toBe(frame.sse);
  expect(frame.ws).toBe(frame.ws);
});

test.each([0, 125, 126, 127, 65_535, 65_536, 70_000])("a message of %i bytes has the header that RFC 6455 gives it", (length) => {
  const text = `"${"x".repeat(Math.max(0, length - 2))}"`.slice(0, length);
  const bytes = new Frame(text).ws;
  const header =
    length < 126
      ? [0x81, length]
      : length < 65_536
        ? [0x81, 126, length >> 8, length & 255]
        : [0x81, 127, 0, 0, 0, 0, 0, length >> 16, (length >> 8) & 255, length & 255];
  expect([...bytes.subarray(0, header.length)]).toEqual(header);
  expect(bytes.subarray(header.length).toString()).toBe(text);
});

describe("a token", () => {
  test("of one kind is none of another", () => {
    const ticket = mintToken("ticket");
    expect([tokenHash(ticket.token), ticketHash(ticket.token)]).toEqual([null, ticket.hash]);
    for (const kind of ["session", "key"] as const) {
      const minted = mintToken(kind);
      expect([tokenHash(minted.token), ticketHash(minted.token)]).toEqual([minted.hash, null]);
    }
    for (const text of ["", "pgt_", `${ticket.token}x`, ticket.token.slice(0, -1), ticket.token.replace("pgt_", "pgx_")])
      expect([tokenHash(text), ticketHash(text)]).toEqual([null, null]);
    const other = ticket.token.endsWith("0") ? "1" : "0";
    expect(ticketHash(ticket.token.slice(0, -1) + other)).toBeNull();
  });
});

describe("a query that is kept", () => {
  test.each([
    ["id=1&token=abc&room=r", "id=1&token=&room=r"],
    ["ticket=abc", "ticket="],
    ["TICKET=abc&%74oken=x", "TICKET=&%74oken="],
    ["prompt=tell+me&content=a%20secret&Prompt=x", "prompt=&content=&Prompt="],
    ["prompts=3&contents=4&system_prompt=x", "prompts=3&contents=4&system_prompt=x"],
    [`x=${mintToken("ticket").token}`, "x="],
    [`x=${encodeURIComponent(`a ${mintToken("session").token}`)}`, "x="],
    ["a=1&&b", "a=1&&b"],
  ])("%s is kept as %s", (query, kept) => expect(withoutSecrets(query)).toBe(kept));

  test("has no field that belongs into a body", () => {
    for (const name of ["prompt", "content", "ticket", "token", "password"]) expect(belongsInBody(name)).toBe(true);
    for (const name of ["id", "context", "prompter", "room"]) expect(belongsInBody(name)).toBe(false);
  });
});
