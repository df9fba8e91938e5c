import { once } from "node:events";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { functions } from "../functions/all.ts";
import { isEndpoint } from "../lib/http/endpoint.ts";
import { channels, encodings, eventOf, expectOurs, expectRefusal } from "./support/answers.ts";
import { type App, PASSWORD, type Person, startApp } from "./support/app.ts";
import { answersIn, ask, everything, open, request, send, write } from "./support/raw.ts";
import { NOTHING, newChat, newGroup, routed } from "./support/samples.ts";
import { startUpstream, type Upstream } from "./support/upstream.ts";

const endpoints = functions
  .flatMap(({ endpoints }) => endpoints.filter(isEndpoint))
  .map((entry) => ({ name: entry.name, entry, ...routed(entry.route) }));
const reads = endpoints.filter(({ methods }) => methods.includes("GET"));

let app: App;
let upstream: Upstream;
let admin: Person;
const warnings: Error[] = [];
const onWarning = (warning: Error) => void warnings.push(warning);

beforeAll(async () => {
  process.on("warning", onWarning);
  upstream = await startUpstream();
  app = await startApp({ API_URL: upstream.url });
  admin = await app.person();
});
afterAll(async () => {
  await app.close();
  await upstream.close();
  process.off("warning", onWarning);
  expect(warnings).toEqual([]);
});

/** To every endpoint, by someone who may use it. What is open is asked by nobody, so that no session is ended. */
async function everywhere(
  check: (answer: Awaited<ReturnType<App["call"]>>) => void,
  given: string | Buffer | ((mostKeys: number) => string),
  type: "application/json" | "application/x-www-form-urlencoded",
) {
  const asked = endpoints.map(async ({ path, entry }) => {
    const lines = [`POST ${path} HTTP/1.1`, "Host: a", "Connection: close", `Content-Type: ${type}`];
    const own = entry.access.open ? [] : [`Authorization: Bearer ${admin.token}`];
    const body = typeof given === "function" ? given(entry.bodyKeys ?? 1_000) : given;
    const answer = await ask(app.url, request([...lines, ...own, `Content-Length: ${Buffer.byteLength(body)}`], body));
    check({ ...answer, headers: new Headers(answer.headers) });
  });
  await Promise.all(asked);
}

describe("a JSON body", () => {
  const nested = (levels: number, inside = "1") => `${'{"a":'.repeat(levels)}${inside}${"}".repeat(levels)}`;
  const keys = (count: number) => JSON.stringify(Object.fromEntries(Array.from({ length: count }, (_, n) => [`k${n}`, n])));
  const bad: [what: string, body: string | Buffer | ((mostKeys: number) => string)][] = [
    ["that stops", "{"],
    ["that is a list", "[]"],
    ["that is null", "null"],
    ["that is text", '"x"'],
    ["that is a number", "5"],
    ["that is true", "true"],
    ["that is only space", "  "],
    ["with another behind it", "{}{}"],
    ["with text behind it", '{"a":1} x'],
    ["with a comma too many", '{"a":1,}'],
    ["with a comment", '{"a":1}// x'],
    ["in single quotes", "{'a':1}"],
    ["with NaN", '{"a":NaN}'],
    ["with a byte order mark", "\ufeff{}"],
    ["with NUL in text", '{"a":"x\\u0000y"}'],
    ["with NUL in a name", '{"a\\u0000":1}'],
    ["with a raw NUL", '{"a":"\0"}'],
    ["with half a surrogate pair", '{"a":"\\ud83d"}'],
    ["with the other half", '{"a":"\\ude00\\ud83d"}'],
    ["with half a pair in a name", '{"\\ud83d":1}'],
    ["with a raw line break in text", '{"a":"x\ny"}'],
    ["that is not UTF-8", Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xff, 0x22, 0x7d])],
    ["with an overlong escape of UTF-8", Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xc0, 0xaf, 0x22, 0x7d])],
    ["with a surrogate as UTF-8", Buffer.from([0x7b, 0x22, 0x61, 0x22, 0x3a, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x7d])],
    ["in UTF-16", Buffer.from('{"a":1}', "utf16le")],
    ["33 levels deep", nested(33)],
    ["33 lists deep", `{"a":${"[".repeat(32)}${"]".repeat(32)}}`],
    ["20,000 levels deep", nested(10_000, "1").slice(0, 65_000)],
    ["of a key more than the 1,000 that are read", (most) => keys(most + 1)],
    ["of a value too many in lists", (most) => JSON.stringify({ a: Array.from({ length: most }, () => 0) })],
    ["with a number beyond all", '{"a":1e999}'],
    ["with one far below", '{"a":[-1e999]}'],
    ["with __proto__", '{"__proto__":{"admin":true}}'],
    ["with __proto__ written otherwise", '{"\\u005f_proto__":{"admin":true}}'],
    ["with __proto__ further in", '{"a":[{"__proto__":1}]}'],
    ["with constructor", '{"constructor":{"prototype":{"admin":true}}}'],
    ["with prototype", '{"a":{"prototype":1}}'],
    ["with a key twice", '{"username":"somebody","username":"nobody"}'],
    ["with a key twice, written otherwise", '{"id":"a","\\u0069d":"b"}'],
    ["with a key twice further in", '{"a":[{"b":1,"c":{"b":1},"b":2}]}'],
  ];
  test.each(bad)("%s is refused by every endpoint", async (_what, body) => {
    await everywhere((answer) => expectRefusal(answer, 400, "bad_json"), body, "application/json");
  });

  const good: [what: string, body: string][] = [
    ["32 levels deep", nested(32)],
    ["of 1,000 keys", keys(1_000)],
    ["with space around it", '\r\n\t {"a" : 1 } \n'],
    ["with the same key in different places", '{"a":{"b":1},"c":{"b":1},"b":["a","a"],"d":"\\"b\\":"}'],
    ["with names that objects have", '{"toString":1,"hasOwnProperty":2,"__defineGetter__":3,"valueOf":null}'],
    ["with all kinds of text", '{"a":"😀 \\ud83d\\ude00 \\\\ \\" \\/ {\\"b\\":1} \u2028 é"}'],
    ["with large numbers", '{"a":[1e308,-0,9007199254740993,0.1]}'],
  ];
  test.each(good)("%s is read", async (_what, body) => {
    const answer = await app.call("/user/session", { token: admin.token, body, headers: { "content-type": "application/json" } });
    expect(answer.status).toBe(200);
  });
});

describe("a form", () => {
  const bad: [what: string, body: string | Buffer][] = [
    ["with an escape that is none", "a=%zz"],
    ["with an escape that is none in a name", "%zz=1"],
    ["with an escape cut off", "a=1&b=%"],
    ["with one digit", "a=%a"],
    ["with NUL", "a=x%00y"],
    ["with NUL in a name", "a%00=1"],
    ["with escapes that are not UTF-8", "a=%C3%28"],
    ["with an overlong escape", "a=%C0%AF"],
    ["with a surrogate", "a=%ED%A0%80"],
    ["that is not UTF-8", Buffer.from([0x61, 0x3d, 0xff])],
    ["of 1,001 fields", Array.from({ length: 1_001 }, (_, n) => `k${n}=1`).join("&")],
    ["with __proto__", "__proto__=1"],
    ["with constructor, escaped", "%63onstructor=1"],
    ["with a field twice", "username=somebody&username=nobody"],
    ["with a field twice, written otherwise", "id=a&i%64=b"],
    ["with an unknown field twice", "unheard=1&unheard=2"],
  ];
  test.each(bad)("%s is refused by every endpoint, and so is such a query", async (what, body) => {
    const code = what.includes("twice") ? "invalid_input" : "bad_form";
    await everywhere((answer) => expectRefusal(answer, 400, code), body, "application/x-www-form-urlencoded");
    if (typeof body !== "string") return;
    const asked = await Promise.all(reads.map(({ path }) => app.call(`${path}?${body}`, { token: admin.token })));
    for (const answer of asked) expectRefusal(answer, 400, code);
    expectRefusal(await app.call(`/user/login?${body}`, { body: {} }), 400, code);
  });

  test("that is JSON inside is read as JSON, and refused as JSON", async () => {
    const type = { "content-type": "application/x-www-form-urlencoded" };
    const sign = (body: string) => app.call("/user/login", { body, headers: type });
    expect((await sign(JSON.stringify({ username: admin.username, password: PASSWORD }))).status).toBe(200);
    expect((await sign(` \n${JSON.stringify({ username: admin.username, password: PASSWORD })}`)).status).toBe(200);
    expectRefusal(await sign('{"username":'), 400, "bad_json");
    expectRefusal(await sign('{"username":5}'), 400, "invalid_input");
  });

  test("takes what curl and browsers send", async () => {
    const sign = (body: string, type = "application/x-www-form-urlencoded") =>
      app.call("/user/login", { body, headers: { "content-type": type } });
    const fields = `username=${admin.username}&password=${PASSWORD.replaceAll(" ", "+")}`;
    for (const type of ["", "; charset=utf-8", ";charset=UTF-8", '; charset="utf-8"'])
      expect((await sign(fields, `application/x-www-form-urlencoded${type}`)).status).toBe(200);
    for (const body of [`&&${fields}&`, `${fields}&unknown`, `${fields}&=`, fields.replaceAll("+", "%20")])
      expect((await sign(body)).status).toBe(200);
  });
});

describe("a field", () => {
  const others: unknown[] = [5, 0, true, null, [], ["x"], {}, { $ne: "" }];
  test.each([
    ["/user/login", "username", { password: PASSWORD }],
    ["/user/login", "password", { username: "somebody" }],
    ["/user/signup", "username", { password: PASSWORD }],
    ["/user/signup", "password", { username: "somebody-new" }],
    ["/user/signup", "name", { username: "somebody-new", password: PASSWORD }],
    ["/user/update", "name", {}],
    ["/user/read", "id", {}],
    ["/user/key/create", "label", {}],
    ["/user/key/create", "expires_at", { label: "x" }],
    ["/user/key/delete", "id", {}],
    ["/user/logout", "token", {}],
    ["/system/events", "text", {}],
    ["/system/events", "since", {}],
    ["/group/create", "name", {}],
    ["/group/create", "description", { name: "x" }],
    ["/group/update", "name", { id: NOTHING }],
    ["/group/update", "description", { id: NOTHING }],
    ["/group/index", "cursor", {}],
    ["/group/members", "group_id", {}],
    ["/group/members/add", "role", { group_id: NOTHING, user_id: NOTHING }],
    ["/chat/create", "name", {}],
    ["/chat/create", "model", {}],
    ["/chat/create", "group_id", {}],
    ["/chat/update", "name", { id: NOTHING }],
    ["/chat/index", "group_id", {}],
    ["/chat/index", "after", {}],
    ["/chat/index", "cursor", {}],
    ["/chat/read", "cursor", { id: NOTHING }],
    ["/chat/prompt", "prompt", { id: NOTHING }],
    ["/chat/prompt", "model", { id: NOTHING, prompt: "x" }],
    ["/chat/prompt", "message_id", { id: NOTHING, prompt: "x" }],
    ["/chat/stop", "message_id", { id: NOTHING }],
    ["/chat/message/delete", "id", {}],
    [`/chat/${NOTHING}/v1/chat/completions`, "model", { messages: [{ role: "user", content: "x" }] }],
  ])("of %s that is text (%s) takes nothing else", async (path, field, rest) => {
    const token = path === "/user/logout" ? {} : { token: admin.token };
    const asked = others.map((value) => app.call(path, { ...token, body: { ...rest, [field]: value } }));
    for (const answer of await Promise.all(asked)) {
      expectRefusal(answer, 400, "invalid_input");
      expect(answer.json.error.param).toBe(field);
    }
  });

  test.each([...others.filter((it) => typeof it !== "number"), "5", "", 5.5, -1, 0, 1_001, 1e21, 2 ** 53])(
    "that is a whole number takes no %j",
    async (limit) => {
      const answer = await app.call("/system/events", { token: admin.token, body: { limit } });
      expectRefusal(answer, 400, "invalid_input");
      expect(answer.json.error.param).toBe("limit");
    },
  );

  test.each([
    "",
    " 5",
    "5 ",
    "+5",
    "0x5",
    "1e2",
    "٥",
    "5,0",
    "five",
    "5.5",
    "-1",
    "0",
    "1001",
    "9".repeat(400),
    "NaN",
    "true",
    "[5]",
  ])("that is a whole number is not %j in a form or query", async (limit) => {
    const form = { ...encodings.form({ limit }), headers: { ...encodings.form({}).headers, ...channels.bearer(admin) } };
    expectRefusal(await app.call("/system/events", form), 400, "invalid_input");
    const query = new URLSearchParams({ limit }).toString();
    expectRefusal(await app.call(`/system/events?${query}`, { token: admin.token }), 400, "invalid_input");
  });

  test("that is a whole number is one in JSON, form and query", async () => {
    const { body, headers } = encodings.form({ limit: 2 });
    for (const answer of [
      await app.call("/system/events", { token: admin.token, body: { limit: 2 } }),
      await app.call("/system/events", { body, headers: { ...headers, ...channels.bearer(admin) } }),
      await app.call("/system/events?limit=2", { token: admin.token }),
      await app.call("/system/events?limit=2", { token: admin.token, body: { limit: 2 } }),
    ])
      expect({ status: answer.status, events: answer.json.events?.length }).toEqual({ status: 200, events: 2 });
  });

  test.each(["", "1", "me", "..", "../x", "x".repeat(36), "0190", "%00", " ", "{}", "*", "' or 1=1 --", "null"])(
    "id %j is no id",
    async (id) => {
      const refused = async (path: string, field = "id") => {
        expectRefusal(await app.call(path, { token: admin.token, body: { [field]: id } }), 400, "invalid_input");
        const { body, headers } = encodings.form({ [field]: id });
        expectRefusal(await app.call(path, { body, headers: { ...headers, ...channels.bearer(admin) } }), 400, "invalid_input");
      };
      const others = ["/group/read", "/group/delete", "/chat/message/delete", "/chat/message/image", "/chat/template/read"];
      for (const path of ["/user/read", "/user/key/delete", "/user/update", ...others]) await refused(path);
      expectRefusal(await app.call(`/user/read?${new URLSearchParams({ id })}`, { token: admin.token }), 400, "invalid_input");
      // A chat has a key, too, where its owner chose one.
      if (/^[\w.~-]+$/.test(id) && id !== "..") return;
      for (const path of ["/chat/read", "/chat/delete", "/chat/stop", "/chat/ticket", "/chat/stream"]) await refused(path);
      for (const path of ["/chat/user/add", "/chat/user/remove"]) await refused(path, "chat_id");
    },
  );

  test.each([
    "x".repeat(129),
    "{}",
    "*",
    "chat",
    "v1",
    NOTHING.replace("-7", "-0"),
    `${NOTHING}%00`,
    `${NOTHING}%20`,
    "%2e%2e%2fread",
  ])("%j is no id in a path", async (id) => {
    for (const path of [`/chat/${id}/v1/models`, `/chat/${id}/v1/chat/completions`]) {
      const answer = await app.call(path, { token: admin.token, body: { messages: [{ role: "user", content: "x" }] } });
      expect([400, 404]).toContain(answer.status);
      expectRefusal(answer, answer.status);
    }
  });

  test.each([-1, 51, 0.5, 1e9, "5", null, true, [5]])("context takes no %j", async (context) => {
    const answer = await app.call("/chat/prompt", { token: admin.token, body: { id: NOTHING, prompt: "x", context } });
    expectRefusal(answer, 400, "invalid_input");
    expect(answer.json.error.param).toBe("context");
  });

  test.each(["otr", "stream"])("%s is true or false, in a form also 1 or 0", async (field) => {
    const asked = (value: unknown, encode: (typeof encodings)["form"]) => {
      const { body, headers } = encode({ id: NOTHING, prompt: "x", [field]: value });
      return app.call("/chat/prompt", { body, headers: { ...headers, ...channels.bearer(admin) } });
    };
    for (const value of ["true", "false", 1, 0, "", null, {}, "yes"])
      expectRefusal(await asked(value, encodings.json), 400, "invalid_input");
    for (const value of ["TRUE", "yes", "on", "2", "", "null"])
      expectRefusal(await asked(value, encodings.form), 400, "invalid_input");
    for (const value of [true, false]) expectRefusal(await asked(value, encodings.json), 404, "not_found");
    for (const value of ["true", "false", "1", "0"]) expectRefusal(await asked(value, encodings.form), 404, "not_found");
  });

  test("of a prompt may fill its body, and of no other", async () => {
    const chatId = await newChat(app, admin);
    const prompt = "x".repeat(262_000);
    const answer = await app.call("/chat/prompt", { token: admin.token, body: { id: chatId, prompt, otr: true } });
    expect({ status: answer.status, length: answer.json.message?.prompt.length }).toEqual({ status: 200, length: 262_000 });
    const groupId = await newGroup(app, admin);
    const description = "x".repeat(2_001);
    expectRefusal(
      await app.call("/group/update", { token: admin.token, body: { id: groupId, description } }),
      400,
      "invalid_input",
    );
    expectRefusal(await app.call("/chat/update", { token: admin.token, body: { id: chatId, name: prompt } }), 413, "too_large");
  });

  test("of a prompt stands in no query, where it would be kept", async () => {
    const asked = await app.call(`/chat/prompt?id=${NOTHING}&prompt=hello`, { token: admin.token, body: {} });
    expectRefusal(asked, 400, "invalid_input");
    expect(asked.json.error.param).toBe("prompt");
    expect((await eventOf(app, asked))?.query).toBe(`id=${NOTHING}&prompt=`);
  });

  test("that is nearly an id is none", async () => {
    const { id } = admin;
    for (const near of [
      `${id} `,
      ` ${id}`,
      `${id}0`,
      id.slice(1),
      id.replaceAll("-", ""),
      `{${id}}`,
      `urn:uuid:${id}`,
      `${id}\n`,
    ])
      expectRefusal(await app.call("/user/read", { token: admin.token, body: { id: near } }), 400, "invalid_input");
  });

  test("is given once: query and body may not disagree", async () => {
    const other = await app.person();
    for (const path of ["/user/read", "/user/update"]) {
      for (const encode of Object.values(encodings)) {
        const { body, headers } = encode({ id: other.id });
        const options = { body, headers: { ...headers, ...channels.bearer(admin) } };
        const answer = await app.call(`${path}?id=${admin.id}`, options);
        expectRefusal(answer, 400, "invalid_input");
        expect(answer.json.error.param).toBe("id");
        expect((await app.call(`${path}?id=${other.id}`, options)).json.user.id).toBe(other.id);
      }
    }
  });

  test("that is not known is ignored, and what was sent is not repeated where it could be read as more", async () => {
    const body = { unheard: "of", admin: true, __v: 1, user: { admin: true } };
    expect((await app.call("/user/read", { token: admin.token, body })).status).toBe(200);
  });

  test("of a time is one", async () => {
    for (const since of [
      "yesterday",
      "2030-02-30",
      "2030-01-01T25:00:00Z",
      "20300101",
      "1893456000",
      "2030-01-01T00:00:00Z; drop table events",
    ])
      expectRefusal(await app.call("/system/events", { token: admin.token, body: { since } }), 400, "invalid_input");
    for (const since of [
      "0000-01-01",
      "1969-12-31",
      "2030-01-01T00:00:00Z",
      "2030-01-01T00:00:00.123+14:00",
      "9999-12-31T23:59:59-23:59",
    ])
      expect((await app.call("/system/events", { token: admin.token, body: { since } })).status).toBe(200);
  });

  test("of a search is text, whatever it means to SQL", async () => {
    for (const text of ["%%%", "___", "\\\\\\", "'; drop table events; --", "a%b_c\\", "😀😀😀"])
      expect((await app.call("/system/events", { token: admin.token, body: { text } })).status).toBe(200);
    for (const text of ["", "ab", "x".repeat(257)])
      expectRefusal(await app.call("/system/events", { token: admin.token, body: { text } }), 400, "invalid_input");
  });
});

describe("what is hardly HTTP", () => {
  const lines = (first: string, ...more: string[]) => request([first, "Host: a", "Connection: close", ...more]);
  const post = (more: string[], body = "") =>
    request(["POST /user/login HTTP/1.1", "Host: a", "Connection: close", "Content-Type: application/json", ...more], body);
  const clientHello = "16030100c8010000c40303";
  const refused: [what: string, bytes: string | Buffer, status: number][] = [
    ["a header of 20 KB", lines("GET /health HTTP/1.1", `X-Long: ${"x".repeat(20_480)}`), 431],
    ["a header of 2 MB", lines("GET /health HTTP/1.1", `X-Long: ${"x".repeat(2_000_000)}`), 431],
    ["20 KB of small headers", lines("GET /health HTTP/1.1", ...Array.from({ length: 2_000 }, (_, n) => `X-${n}: 1234`)), 431],
    ["a target of 20 KB", lines(`GET /health?${"x".repeat(20_480)} HTTP/1.1`), 431],
    ["a cookie of 20 KB", lines("GET /user/session HTTP/1.1", `Cookie: sess=${"x".repeat(20_480)}`), 431],
    ["a length and chunks", post(["Content-Length: 2", "Transfer-Encoding: chunked"], "0\r\n\r\n"), 400],
    ["chunks and a length", post(["Transfer-Encoding: chunked", "Content-Length: 2"], "0\r\n\r\n"), 400],
    ["two lengths", post(["Content-Length: 2", "Content-Length: 3"], "{} "), 400],
    ["two lengths in one", post(["Content-Length: 2, 2"], "{}"), 400],
    ["a negative length", post(["Content-Length: -1"]), 400],
    ["a length with a sign", post(["Content-Length: +2"], "{}"), 400],
    ["a length that is none", post(["Content-Length: two"]), 400],
    ["a length beyond all", post([`Content-Length: ${"9".repeat(30)}`]), 400],
    ["an unknown transfer encoding last", post(["Transfer-Encoding: chunked, gzip"], "0\r\n\r\n"), 400],
    ["an encoding that is nearly chunked", post(["Transfer-Encoding: xchunked"], "0\r\n\r\n"), 400],
    ["chunked twice in other words", post(["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], "0\r\n\r\n"), 400],
    ["a chunk whose size is none", post(["Transfer-Encoding: chunked"], "zz\r\n{}\r\n0\r\n\r\n"), 400],
    ["a chunk longer than its size", post(["Transfer-Encoding: chunked"], "1\r\n{}\r\n0\r\n\r\n"), 400],
    ["a chunk of a size beyond all", post(["Transfer-Encoding: chunked"], "fffffffffffffffff\r\n"), 400],
    ["two Hosts", lines("GET /health HTTP/1.1", "Host: evil.example"), 400],
    ["the same Host twice", lines("GET /health HTTP/1.1", "host: a"), 400],
    ["two Hosts for the relay", lines("GET /v1/models HTTP/1.1", "Host: evil.example"), 400],
    ["no Host", request(["GET /health HTTP/1.1", "Connection: close"]), 400],
    ["no Host for the relay", request(["GET /v1/models HTTP/1.1", "Connection: close"]), 400],
    ["absolute form", lines("GET http://a/health HTTP/1.1"), 400],
    ["absolute form of another place", lines("GET http://evil.example/v1/models HTTP/1.1"), 400],
    ["absolute form, secure", lines("GET https://evil.example/v1/models HTTP/1.1"), 400],
    ["a place without a scheme", lines("GET @evil.example/v1/models HTTP/1.1"), 400],
    ["no slash in front", lines("GET health HTTP/1.1"), 400],
    ["an asterisk", lines("OPTIONS * HTTP/1.1"), 400],
    ["HTTP/0.9", "GET /health\r\n\r\n", 400],
    ["HTTP/0.9 of the relay", "GET /v1/models\r\n\r\n", 400],
    ["HTTP/0.9 with headers", `GET /v1/models\r\nAuthorization: Bearer x\r\n\r\n`, 400],
    ["HTTP/2 from the start", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400],
    ["HTTP/1.2", lines("GET /health HTTP/1.2"), 400],
    ["HTTP/9.9", lines("GET /health HTTP/9.9"), 400],
    ["another protocol", lines("GET /health SPDY/3.1"), 400],
    ["TRACE", lines("TRACE /user/login HTTP/1.1"), 405],
    ["TRACE of a probe", lines("TRACE /health HTTP/1.1"), 405],
    ["TRACE of the relay", lines("TRACE /v1/models HTTP/1.1"), 405],
    ["CONNECT", request(["CONNECT evil.example:443 HTTP/1.1", "Host: evil.example:443"]), 400],
    ["a method that nobody knows", lines("BREW /health HTTP/1.1"), 400],
    ["a method in small letters", lines("get /health HTTP/1.1"), 400],
    ["a backslash", lines("GET /user\\login HTTP/1.1"), 400],
    ["a fragment", lines("GET /health#x HTTP/1.1"), 400],
    ["a way up", lines("GET /nowhere/../health HTTP/1.1"), 400],
    ["a way up, escaped", lines("GET /nowhere/%2e%2E/health HTTP/1.1"), 400],
    ["a way up at the end", lines("GET /user/.. HTTP/1.1"), 400],
    ["a step on the spot", lines("GET /./health HTTP/1.1"), 400],
    ["a bad escape", lines("GET /he%zzlth HTTP/1.1"), 404],
    ["NUL, escaped", lines("GET /health%00 HTTP/1.1"), 404],
    ["a raw NUL in the target", lines("GET /heal\0th HTTP/1.1"), 400],
    ["a tab in the target", lines("GET /heal\tth HTTP/1.1"), 400],
    ["a space in the target", lines("GET /heal th HTTP/1.1"), 400],
    ["bytes beyond ASCII in the target", lines("GET /h\xffalth HTTP/1.1"), 400],
    ["CR in a header", "GET /health HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400],
    ["LF in a header", "GET /health HTTP/1.1\r\nHost: a\r\nX: a\nb\r\n\r\n", 400],
    ["NUL in a header", "GET /health HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400],
    ["a header without a colon", lines("GET /health HTTP/1.1", "X"), 400],
    ["a header with a space in its name", lines("GET /health HTTP/1.1", "Content Length: 2"), 400],
    ["a space before a colon", lines("GET /health HTTP/1.1", "Host : evil.example"), 400],
    ["a header without a name", lines("GET /health HTTP/1.1", ": x"), 400],
    ["TLS", Buffer.from(clientHello, "hex"), 400],
    ["SSH", "SSH-2.0-OpenSSH_9.6\r\n", 400],
    ["noise", "\x00\x01\x02\x03\r\n\r\n", 400],
  ];
  test.each(refused)("%s is refused in JSON, and the connection ends", async (_what, bytes, status) => {
    upstream.reset();
    const answer = await ask(app.url, bytes);
    expectRefusal(answer, status);
    expect(answer.headers.connection).toBe("close");
    expect(upstream.requests).toHaveLength(0);
  });

  test("a refusal that has no request is in the log all the same", async () => {
    const answer = await ask(app.url, "noise\r\n\r\n");
    const id = answer.headers["x-proxy-gpt-request-id"];
    expect(app.lines.find(({ requestId }) => requestId === id)).toMatchObject({ status: 400, code: "bad_request" });
  });

  const accepted: [what: string, bytes: string | Buffer][] = [
    ["HTTP/1.0, without a Host", "GET /health HTTP/1.0\r\n\r\n"],
    ["an empty Host", request(["GET /health HTTP/1.1", "Host:", "Connection: close"])],
    ["a Host that no URL could have", request(["GET /health HTTP/1.1", "Host: a b/c?d#e@f:99999", "Connection: close"])],
    ["an unknown expectation", lines("GET /health HTTP/1.1", "Expect: tea")],
    ["a query that is noise", lines("GET /health?%zz&&==&%00 HTTP/1.1")],
    ["a header with bytes beyond ASCII", lines("GET /health HTTP/1.1", "Origin: \xff\xfe", "Cookie: sess=\xff")],
    ["2,100 headers", lines("GET /health HTTP/1.1", ...Array.from({ length: 2_100 }, () => "a:"))],
    ["an empty line in front", Buffer.concat([Buffer.from("\r\n\r\n"), lines("GET /health HTTP/1.1")])],
  ];
  test.each(accepted)("%s is no reason to refuse", async (_what, bytes) => {
    expect(await ask(app.url, bytes)).toMatchObject({ status: 200, json: { status: "ok" } });
  });

  test("who waits for 100 Continue is told so, or refused", async () => {
    const expecting = (length: number) => post(["Expect: 100-continue", `Content-Length: ${length}`]);
    const socket = await open(app.url);
    const arrived = everything(socket);
    await write(socket, expecting(2));
    await once(socket, "data");
    await write(socket, "{}");
    const bytes = await arrived;
    expect(bytes.toString("latin1")).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\n/);
    expectRefusal(answersIn(bytes)[0] as NonNullable<ReturnType<typeof answersIn>[0]>, 400, "invalid_input");
    expectRefusal(await ask(app.url, expecting(65_537)), 413, "too_large");
  });

  test("requests that come together are answered in turn", async () => {
    const keep = (path: string) => request([`GET ${path} HTTP/1.1`, "Host: a"]);
    const answers = await send(app.url, Buffer.concat([keep("/health"), keep("/nowhere"), lines("GET / HTTP/1.1")]));
    expect(answers.map(({ status }) => status)).toEqual([200, 404, 200]);
  });

  test("noise behind a request takes nothing from its answer", async () => {
    const body = JSON.stringify({ username: admin.username, password: PASSWORD });
    const sign = ["POST /user/login HTTP/1.1", "Host: a", "Content-Type: application/json", `Content-Length: ${body.length}`];
    const noise = Buffer.from(`noise\r\n\r\n${"more noise".repeat(10_000)}`);
    expect(await ask(app.url, Buffer.concat([request(sign, body), noise]))).toMatchObject({ status: 200, json: { token: /./ } });
    expect((await ask(app.url, Buffer.concat([request([...sign, "Connection: close"], body), noise]))).status).toBe(200);
  });
});

describe("a connection that ends too soon", () => {
  test("in the middle of a body is nobody's fault but the client's", async () => {
    const socket = await open(app.url);
    const head = ["POST /user/update HTTP/1.1", "Host: a", "Content-Type: application/json", "Content-Length: 1000"];
    await write(socket, request([...head, `Authorization: Bearer ${admin.token}`], '{"name":'));
    const before = app.lines.length;
    socket.resetAndDestroy();
    const line = await nextLine(before);
    expect(line).toMatchObject({ status: 499, code: "client_closed", severity: "INFO" });
    const headers = new Headers({ "x-proxy-gpt-request-id": String(line.requestId) });
    expect(await eventOf(app, { headers })).toMatchObject({ status: 499, errorCode: "client_closed", userId: admin.id });
    expect(app.lines.slice(before).filter(({ severity }) => severity === "ERROR")).toEqual([]);
  });

  /** The next line of log that has a code. The log is a list here, so it is looked at until it has one. */
  async function nextLine(before: number): Promise<Record<string, unknown>> {
    for (;;) {
      const found = app.lines.slice(before).find(({ code }) => code !== undefined);
      if (found) return found;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
});

describe("an upgrade that is not taken", () => {
  const offer = ["Host: a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"];
  const bodyOf = (length: number) => {
    const filler = { username: admin.username, password: PASSWORD, filler: "" };
    return JSON.stringify({ ...filler, filler: "x".repeat(Math.max(0, length - JSON.stringify(filler).length)) });
  };
  const sign = (body: string, more: string[] = []) => [
    "POST /user/login HTTP/1.1",
    ...offer,
    "Content-Type: application/json",
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...more,
  ];

  test.each([["h2c"], ["websocket"], ["h2c, websocket"], ["TLS/1.3"], ["nonsense"]])(
    "(%s) is an ordinary request",
    async (protocol) => {
      const lines = ["GET /user/session HTTP/1.1", "Host: a", "Connection: Upgrade", `Upgrade: ${protocol}`];
      const answer = await ask(app.url, request([...lines, `Authorization: Bearer ${admin.token}`]));
      expect(answer).toMatchObject({ status: 200, json: { user: { id: admin.id } } });
      expectOurs(answer);
      expectRefusal(await ask(app.url, request(lines)), 401, "unauthenticated");
      expectRefusal(await ask(app.url, request(["GET /nowhere HTTP/1.1", ...lines.slice(1)])), 404, "not_found");
      expectRefusal(await ask(app.url, request(["GET http://evil/ HTTP/1.1", ...lines.slice(1)])), 400, "bad_target");
    },
  );

  test("brings its body along, in one piece or in many", async () => {
    const body = bodyOf(0);
    expect(await ask(app.url, request(sign(body), body))).toMatchObject({ status: 200, json: { user: { id: admin.id } } });
    expect((await ask(app.url, request(sign(body)), ...body)).status).toBe(200);
    const long = bodyOf(60_000);
    const pieces = Array.from({ length: 60 }, (_, n) => long.slice(n * 1_000, (n + 1) * 1_000));
    expect((await ask(app.url, request(sign(long)), ...pieces)).status).toBe(200);
  });

  test("has the limits of any other", async () => {
    const large = bodyOf(65_537);
    expectRefusal(await ask(app.url, request(sign(large), large)), 413, "too_large");
    expectRefusal(await ask(app.url, request([...sign("").slice(0, -1), "Content-Length: 99999999"])), 413, "too_large");
    expectRefusal(await ask(app.url, request(sign("{"), "{")), 400, "bad_json");
    const foreign = bodyOf(0);
    expectRefusal(await ask(app.url, request(sign(foreign, ["Origin: https://evil.example"]), foreign)), 403, "origin_refused");
  });

  test("is relayed with its body, and the upstream hears nothing of the offer", async () => {
    upstream.reset();
    const body = JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] });
    const head = ["POST /v1/chat/completions HTTP/1.1", ...sign(body).slice(1), `Authorization: Bearer ${admin.token}`];
    expect((await ask(app.url, request(head, body))).status).toBe(200);
    expect((await ask(app.url, request(head), body.slice(0, 10), body.slice(10))).status).toBe(200);
    expect(upstream.requests.map((it) => it.body.toString())).toEqual([body, body]);
    for (const { headers } of upstream.requests) {
      expect(headers.upgrade).toBeUndefined();
      expect(headers["http2-settings"]).toBeUndefined();
    }
  });
});

test("connections that their clients never close do not hold up the end", async () => {
  const other = await startApp();
  const offer = ["Host: a", "Connection: Upgrade", "Upgrade: h2c"];
  const reluctant = ["noise\r\n\r\n", request(["GET /health HTTP/1.1", ...offer]), request(["CONNECT a:1 HTTP/1.1", "Host: a"])];
  const unfinished = [request(["POST /user/login HTTP/1.1", ...offer, "Content-Length: 10"], "{")];
  for (const bytes of reluctant) {
    const socket = await open(other.url);
    await write(socket, bytes);
    // Reads to the end, and keeps its own half open.
    socket.resume();
    await once(socket, "end");
  }
  for (const bytes of unfinished) await write(await open(other.url), bytes);
  await other.close();
});

describe("whatever comes", () => {
  const seed = Number(process.env.SEED ?? 20_301_112);
  const trials = Number(process.env.TRIALS ?? 200);

  test.each(endpoints.map((it) => [it.name, it] as const))(
    `%s answers ${trials} bodies of noise in JSON, and with a status below 500 (seed ${seed})`,
    async (_name, { path, methods, entry }) => {
      const noise = createNoise(seed, Object.keys(entry.input.shape));
      const ask = async () => {
        const { body, type, query } = noise.request();
        const method = methods.includes("GET") && noise.chance(0.2) ? "GET" : "POST";
        const answer = await app.call(`${path}${query}`, {
          method,
          ...(method === "POST" && { body }),
          headers: { "content-type": type, ...(!entry.access.open && channels.bearer(admin)) },
        });
        const what = `seed ${seed}: ${method} ${path}${query} ${type} ${JSON.stringify(body)}`;
        expect(answer.status, what).toBeLessThan(500);
        if (answer.status === 200) expect(answer.json, what).toBeTypeOf("object");
        else expectRefusal(answer, answer.status);
        return answer.status;
      };
      const statuses: number[] = [];
      for (let n = 0; n < trials; n += 20) statuses.push(...(await Promise.all(Array.from({ length: 20 }, ask))));
      expect(statuses).toContain(400);
    },
  );

  test(`bytes that are nearly a request get an answer of ours, or none (seed ${seed})`, async () => {
    const noise = createNoise(seed, ["username", "password"]);
    const body = JSON.stringify({ username: "nobody.at.all", password: "x" });
    const whole = request(
      [
        "POST /user/login HTTP/1.1",
        "Host: a",
        "Content-Type: application/json",
        `Content-Length: ${body.length}`,
        "Connection: close",
      ],
      body,
    );
    const one = async () => {
      const bytes = noise.bend(whole);
      const socket = await open(app.url);
      const arrived = everything(socket);
      socket.end(bytes);
      for (const answer of answersIn(await arrived)) {
        expect(answer.status, `seed ${seed}: ${JSON.stringify(bytes.toString("latin1"))}`).toBeLessThan(500);
        if (answer.status >= 400) expectRefusal(answer, answer.status);
      }
    };
    for (let n = 0; n < trials; n += 20) await Promise.all(Array.from({ length: 20 }, one));
  });

  test("and the process lives on, with nothing in the log that calls for help", async () => {
    expect((await app.call("/health")).json).toMatchObject({ status: "ok" });
    expect(app.lines.filter(({ severity }) => severity !== "INFO")).toEqual([]);
  });
});

/** A stream of bodies, queries and bytes, the same for a seed. `names` are fields that mean something. */
function createNoise(seed: number, names: readonly string[]) {
  let state = seed;
  // mulberry32, by Tommy Ettinger, public domain.
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const chance = (p: number) => random() < p;
  const upTo = (n: number) => Math.floor(random() * n);
  const pick = <T>(from: readonly T[]): T => from[upTo(from.length)] as T;

  const uuid = "01a1ffe3-a6ef-7aa1-a901-dafc6a775276";
  const texts = [
    "",
    " ",
    "a",
    "alice",
    uuid,
    "x".repeat(300),
    "😀",
    "\0",
    "\ud800",
    "\u202e",
    "' or 1=1 --",
    "%",
    "<b>",
    "../..",
    "null",
    "1e999",
  ];
  const numbers = [0, -0, 1, -1, 0.5, 50, 1e308, 2 ** 53, -(2 ** 63), 599];
  const odd = ["__proto__", "constructor", "toString", "", "a.b", "a[b]", "\0", "id", "token", "x".repeat(100)];
  const types = [
    "application/json",
    "application/x-www-form-urlencoded",
    "application/json; charset=utf-8",
    "text/plain",
    "x",
    "application/json",
  ];

  const name = () => (chance(0.75) && names.length > 0 ? pick(names) : pick(odd));
  const value = (depth: number): unknown => {
    const kind = upTo(depth > 3 ? 4 : 6);
    if (kind < 2) return pick(texts);
    if (kind === 2) return pick(numbers);
    if (kind === 3) return pick([true, false, null]);
    if (kind === 4) return Array.from({ length: upTo(4) }, () => value(depth + 1));
    return Object.fromEntries(Array.from({ length: upTo(4) }, () => [name(), value(depth + 1)]));
  };
  const object = () => Object.fromEntries(Array.from({ length: 1 + upTo(4) }, () => [name(), value(0)]));
  const escaped = (text: string) =>
    chance(0.8) ? encodeURIComponent(text.toWellFormed()) : text.replace(/[^\x21-\x7e]|[#&]/g, "%");
  const form = () =>
    Array.from({ length: 1 + upTo(4) }, () => `${escaped(name())}=${escaped(String(pick([...texts, ...numbers])))}`).join("&");
  const bend = (bytes: Buffer): Buffer => {
    const bent = Buffer.from(bytes);
    for (let n = 1 + upTo(3); n > 0; n--)
      bent[upTo(bent.length)] = chance(0.5) ? upTo(256) : pick([0, 10, 13, 32, 34, 37, 58, 123]);
    return chance(0.3) ? bent.subarray(0, upTo(bent.length)) : bent;
  };
  return {
    chance,
    bend,
    request: () => {
      const whole = chance(0.6) ? JSON.stringify(chance(0.9) ? object() : value(0)) : form();
      const body = chance(0.2) ? bend(Buffer.from(`${whole} `)).toString("latin1") : whole;
      const type = pick(types);
      return { body, type, query: chance(0.2) ? `?${form().slice(0, 1_000)}` : "" };
    },
  };
}
