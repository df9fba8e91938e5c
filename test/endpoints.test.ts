import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as z from "zod";
import { functions } from "../functions/all.ts";
import { anyone, signedIn } from "../lib/access.ts";
import { endpoint, type FunctionSpec, isEndpoint } from "../lib/http/endpoint.ts";
import { countEvents, encodings, eventOf, everyChannel, everyEncoding, expectOurs, expectRefusal } from "./support/answers.ts";
import { type App, type Person, startApp } from "./support/app.ts";
import { answersIn, ask, everything, open, request, write } from "./support/raw.ts";
import { placed, queryOf, routed, SAMPLES } from "./support/samples.ts";
import { startUpstream, type Upstream } from "./support/upstream.ts";

// What an endpoint gets by being in the list, without a line of its own: whoever adds one adds it to these tests too.

const endpoints = functions.flatMap(({ name, endpoints }) =>
  endpoints.filter(isEndpoint).map((entry) => ({ name: entry.name, entry, function: name, ...routed(entry.route) })),
);
type Listed = (typeof endpoints)[number];
const posts = endpoints.filter(({ methods }) => methods.includes("POST"));
/** What reads answers both methods alike, but for paths that another endpoint answers POST on. */
const reads = endpoints.filter(({ methods }) => methods.includes("GET"));
/** The methods that a path takes, whichever endpoint answers them. */
const takenAt = (template: string): string[] => {
  const methods = endpoints.filter((it) => it.template === template).flatMap((it) => it.methods);
  return [...methods, ...(methods.includes("GET") ? ["HEAD"] : []), "OPTIONS"].sort();
};
const named = <T extends { name: string }>(list: readonly T[]) => list.map((it) => [it.name, it] as const);

let app: App;
let upstream: Upstream;
let admin: Person;
let member: Person;

beforeAll(async () => {
  upstream = await startUpstream();
  app = await startApp({ API_URL: upstream.url });
  admin = await app.person();
  member = await app.person();
});
afterAll(async () => {
  await app.close();
  await upstream.close();
});

/** Someone whom the endpoint's guard lets in: what a sample names is theirs. A sign-out ends the session, so it gets one of its own. */
async function permitted({ entry }: Listed): Promise<Person> {
  if (entry.name === "user.logout") return app.person();
  return entry.access.name.startsWith("admin") ? admin : member;
}
const fieldsFor = async ({ name }: Listed, person: Person) => (await SAMPLES[name]?.(app, person)) ?? {};

describe("a caller without a credential", () => {
  test.each(named(endpoints.filter(({ entry }) => !entry.access.open)))(
    "is refused by %s, however they ask",
    async (_name, listed) => {
      const { path, methods } = listed;
      const rows = await countEvents(app);
      for (const method of methods) expectRefusal(await app.call(path, { method }), 401, "unauthenticated");
      for (const [, encode] of methods.includes("POST") ? everyEncoding : []) {
        const answer = await app.call(path, { method: "POST", ...encode({ id: member.id }) });
        expectRefusal(answer, 401, "unauthenticated");
        expect(answer.headers.get("www-authenticate")).toMatch(/^Bearer /);
      }
      for (const [, present] of everyChannel) {
        const stranger = { ...member, token: "pgs_not-a-token" };
        expectRefusal(await app.call(path, { method: methods[0] as string, headers: present(stranger) }), 401, "unauthenticated");
      }
      expect(await countEvents(app)).toBe(rows);
    },
  );

  test.each(named(endpoints.filter(({ entry }) => entry.access.open)))(
    "is let in by %s, and told what is wrong",
    async (_name, { path }) => {
      expectRefusal(await app.call(path, { body: "[]", headers: { "content-type": "application/json" } }), 400, "bad_json");
    },
  );
});

test.each(named(endpoints.filter(({ entry }) => entry.access.name === "admin")))(
  "who is not an admin is refused by %s, on every channel",
  async (_name, listed) => {
    const { path, methods } = listed;
    for (const [, present] of everyChannel) {
      for (const [, encode] of everyEncoding) {
        const { body, headers } = encode(await fieldsFor(listed, member));
        expectRefusal(await app.call(path, { body, headers: { ...headers, ...present(member) } }), 403, "forbidden");
      }
      if (methods.includes("GET")) expectRefusal(await app.call(path, { headers: present(member) }), 403, "forbidden");
    }
  },
);

describe.each(named(endpoints))("%s", (_name, listed) => {
  const { entry, path, template, methods } = listed;
  const guarded = !entry.access.open;

  test("another method is refused with those that are taken", async () => {
    const taken = takenAt(template);
    for (const method of ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"].filter((it) => !taken.includes(it))) {
      const answer = await app.call(path, { method, token: member.token });
      if (method === "HEAD") expect(answer).toMatchObject({ status: 405, text: "" });
      else expectRefusal(answer, 405, "method_not_allowed");
      expect(answer.headers.get("allow")?.split(", ").sort()).toEqual(taken);
    }
    expectRefusal(await ask(app.url, request([`TRACE ${path} HTTP/1.1`, "Host: a", "Connection: close"])), 405);
  });

  test("OPTIONS and a preflight say what is taken, and touch no store", async () => {
    const rows = await countEvents(app);
    const asked = { "access-control-request-method": methods[0] as string, "access-control-request-headers": "authorization" };
    const taken = takenAt(template);
    const answer = await app.call(path, { method: "OPTIONS", headers: { origin: "https://elsewhere.example", ...asked } });
    expect(answer).toMatchObject({ status: 204, text: "" });
    expectOurs(answer);
    expect(answer.headers.get("access-control-allow-methods")?.split(", ").sort()).toEqual(taken);
    expect(answer.headers.get("access-control-allow-headers")).toBe("authorization");
    expect(answer.headers.get("access-control-allow-credentials")).toBeNull();
    const plain = await app.call(path, { method: "OPTIONS" });
    expect(plain.status).toBe(204);
    expect(plain.headers.get("allow")?.split(", ").sort()).toEqual(taken);
    expect(await countEvents(app)).toBe(rows);
  });

  test("a call leaves an audit row, with its bodies where they hold no secret", async () => {
    const person = await permitted(listed);
    const fields = await fieldsFor(listed, person);
    const { path, rest } = placed(listed, fields);
    const method = methods.includes("POST") ? "POST" : "GET";
    const query = method === "GET" ? queryOf(rest) : "";
    const answer = await app.call(query ? `${path}?${query}` : path, {
      token: person.token,
      method,
      ...(method === "POST" && { body: rest }),
    });
    expect(answer).toMatchObject({ status: 200 });
    expectOurs(answer);
    expect(answer.headers.get("content-type")).toBe("application/json");
    expect(await eventOf(app, answer)).toMatchObject({
      endpoint: entry.name,
      method,
      path,
      query,
      status: 200,
      errorCode: null,
      userId: entry.name === "user.signup" ? answer.json.user.id : person.id,
      address: "127.0.0.1",
      requestBody: entry.audit === "bodies" ? JSON.stringify(entry.input.parse(fields)) : null,
      responseBody: entry.audit === "bodies" ? answer.text : null,
      endedAt: expect.any(Date),
    });
  });

  test("a call that is refused for its input leaves an audit row", async () => {
    const person = await permitted(listed);
    const post = { body: "{", headers: { "content-type": "application/json" } };
    const isPost = methods.includes("POST");
    const answer = await app.call(isPost ? path : `${path}?a=%zz`, { token: person.token, ...(isPost && post) });
    const errorCode = isPost ? "bad_json" : "bad_form";
    expectRefusal(answer, 400, errorCode);
    expect(await eventOf(app, answer)).toMatchObject({
      endpoint: entry.name,
      status: 400,
      errorCode,
      userId: person.id,
      requestBody: null,
      responseBody: entry.audit === "bodies" ? answer.text : null,
    });
  });

  test("a path that is nearly this one is none", async () => {
    const last = path.lastIndexOf("/");
    const near = [
      `/${path}`,
      `${path}/`,
      `${path.slice(0, last)}/${path.slice(last)}`,
      path.toUpperCase(),
      `${path}x`,
      `${path};x`,
    ];
    // The root of a function greets, as it does without the slash where the function has no endpoint there.
    for (const other of near.filter((it) => it !== `/${listed.function}/`)) {
      expectRefusal(await app.call(other, { token: admin.token }), 404, "not_found");
      expectRefusal(await app.call(other, { token: admin.token, body: {} }), 404, "not_found");
    }
  });

  test("its description is whole", async () => {
    const { json } = await app.call("/openapi.json");
    for (const method of methods) {
      const described = json.paths[template.replace(/:(\w+)/g, "{$1}")][method.toLowerCase()];
      expect(described).toMatchObject({ summary: entry.summary, tags: [listed.function] });
      const { type } = described.responses["200"].content["application/json"].schema;
      expect(type).toBe(entry.name === "chat.conversation" ? "array" : "object");
      for (const status of [400, 413, 415, 503, ...(guarded ? [401] : [])])
        expect(described.responses[status].content["application/json"].schema).toEqual({ $ref: "#/components/schemas/Error" });
      expect(described.security.flatMap(Object.keys)).toEqual(guarded ? ["bearer", "basic", "cookie"] : []);
      const fields = Object.keys(entry.input.shape).filter((name) => method === "GET" || !template.includes(`:${name}`));
      if (method === "GET") expect(described.parameters.map(({ name }: { name: string }) => name)).toEqual(fields);
      else {
        for (const type of ["application/json", "application/x-www-form-urlencoded"])
          expect(Object.keys(described.requestBody?.content[type].schema.properties ?? {})).toEqual(fields);
      }
    }
  });
});

describe.each(named(posts))("%s, by its body", (_name, listed) => {
  const { entry, path } = listed;

  test("a body over the limit is refused, declared or in chunks, and one at the limit is not", async () => {
    const { token } = await permitted(listed);
    const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
    const body = (bytes: number) => `{"unknown":"${"x".repeat(bytes - 14)}"}`;
    expect(body(entry.bodyLimit)).toHaveLength(entry.bodyLimit);
    expectRefusal(await app.call(path, { headers, body: body(entry.bodyLimit + 1) }), 413, "too_large");
    const chunks = (bytes: number) => new Blob([body(bytes)]).stream();
    const inChunks = async (bytes: number) => {
      const answer = await fetch(app.url + path, {
        method: "POST",
        headers,
        body: chunks(bytes),
        duplex: "half",
      } as RequestInit);
      const text = await answer.text();
      return { status: answer.status, headers: answer.headers, text, json: JSON.parse(text) };
    };
    expectRefusal(await inChunks(entry.bodyLimit + 1), 413, "too_large");
    const form = { authorization: `Bearer ${token}`, "content-type": "application/x-www-form-urlencoded" };
    const fields = `unknown=${"x".repeat(entry.bodyLimit - 7)}`;
    expectRefusal(await app.call(path, { headers: form, body: fields }), 413, "too_large");
    for (const answer of [await inChunks(entry.bodyLimit), await app.call(path, { headers, body: body(entry.bodyLimit) })])
      expect(answer.status).not.toBe(413);
  });

  test("a length that is only announced is refused before the body comes", async () => {
    const { token } = await permitted(listed);
    const socket = await open(app.url);
    const arrived = everything(socket);
    const lines = [`POST ${path} HTTP/1.1`, "Host: a", `Authorization: Bearer ${token}`, "Content-Type: application/json"];
    await write(socket, request([...lines, "Content-Length: 99999999999"]));
    const [answer] = answersIn(await arrived);
    expectRefusal(answer as NonNullable<typeof answer>, 413, "too_large");
  });

  test("a body that is neither JSON nor a form in UTF-8 is refused", async () => {
    const { token } = await permitted(listed);
    const types = ["text/plain", "application/xml", "text/xml", "multipart/form-data; boundary=x", "application/jsonp", "*/*"];
    const charsets = ["application/json; charset=utf-16", 'application/x-www-form-urlencoded;charset="UTF-16LE"'];
    const both = ["application/json, text/plain", "application/json; charset=utf-8; charset=utf-16"];
    for (const type of [...types, ...charsets, ...both])
      expectRefusal(await app.call(path, { token, body: "{}", headers: { "content-type": type } }), 415);
    const lines = [
      `POST ${path} HTTP/1.1`,
      "Host: a",
      "Connection: close",
      `Authorization: Bearer ${token}`,
      "Content-Length: 2",
    ];
    const json = "Content-Type: application/json";
    expectRefusal(await ask(app.url, request(lines, "{}")), 415);
    expectRefusal(await ask(app.url, request([...lines, json, "Content-Type: text/plain"], "{}")), 415);
    expectRefusal(await ask(app.url, request([...lines, json, json], "{}")), 415);
    for (const encoding of ["gzip", "br", "identity, gzip"])
      expectRefusal(await ask(app.url, request([...lines, json, `Content-Encoding: ${encoding}`], "{}")), 415);
  });
});

describe("reads", () => {
  test("there are some", () => expect(reads.length).toBeGreaterThan(2));

  test.each(named(reads))("%s answers GET, POST and HEAD alike", async (_name, listed) => {
    const person = await permitted(listed);
    const { token } = person;
    const { path, rest } = placed(listed, await fieldsFor(listed, person));
    const query = queryOf(rest);
    // What was asked last is in the answer of a read of the log, so only its shape can be compared.
    const comparable = (json: unknown) => (listed.name === "system.events" ? Object.keys(json as object) : json);
    const get = await app.call(`${path}?${query}`, { token });
    expect(get.status).toBe(200);
    for (const [, encode] of listed.methods.includes("POST") ? everyEncoding : []) {
      const { body, headers } = encode(rest);
      const post = await app.call(path, { body, headers: { ...headers, authorization: `Bearer ${token}` } });
      expect({ status: post.status, json: comparable(post.json) }).toEqual({ status: 200, json: comparable(get.json) });
    }
    const head = await app.call(`${path}?${query}`, { token, method: "HEAD" });
    expect(head).toMatchObject({ status: 200, text: "" });
    const perRequest = ["date", "x-proxy-gpt-request-id", "content-length", "connection", "keep-alive"];
    const lasting = ({ headers }: { headers: Headers }) => [...headers].filter(([name]) => !perRequest.includes(name));
    expect(lasting(head)).toEqual(lasting(get));
    const length = head.headers.get("content-length");
    if (length !== null && listed.name !== "system.events") expect(length).toBe(get.headers.get("content-length"));
    expect(await eventOf(app, head)).toMatchObject({ method: "HEAD", status: 200 });
  });

  test("those that answer GET alone share their path with what writes there", () => {
    for (const { template } of reads.filter(({ methods }) => !methods.includes("POST")))
      expect(takenAt(template)).toContain("POST");
  });

  test("a HEAD that is refused has the status and no body", async () => {
    for (const { path } of reads) expect(await app.call(path, { method: "HEAD" })).toMatchObject({ status: 401, text: "" });
  });
});

describe("a path that nobody listed", () => {
  test.each([
    "/nope",
    "/user",
    "/user/nope",
    "/USER/login",
    "/index.html",
    "/.env",
    "/user/login.json",
    "/%2e",
    "/%zz",
    "/v2/models",
    "/v1",
  ])("%s is 404 in JSON, to anyone and by any method", async (path) => {
    for (const method of ["GET", "POST", "PUT", "DELETE", "OPTIONS"]) {
      const answer = await ask(app.url, request([`${method} ${path} HTTP/1.1`, "Host: a", "Connection: close"]));
      expectRefusal(answer, path === "/%2e" ? 400 : 404);
    }
    expect(await app.call(path === "/%2e" ? "/nope" : path, { method: "HEAD" })).toMatchObject({ status: 404, text: "" });
  });
});

describe.each(named(functions))("the function %s alone", (_name, spec) => {
  let alone: App;
  beforeAll(async () => {
    alone = await startApp({}, { functions: [spec] });
  });
  afterAll(() => alone.close());

  test("answers its paths with and without its own name in front", async () => {
    for (const { path, methods } of endpoints.filter((it) => it.function === spec.name)) {
      const without = path.slice(spec.name.length + 1);
      // At a function's root a greeting is for those who do not say who they are.
      const asked = { method: methods[0] as string, token: "wrong" };
      const [long, short] = await Promise.all([path, without || "/"].map((it) => alone.call(it, asked)));
      expect(short?.status).toBe(long?.status);
      expect([400, 401]).toContain(short?.status);
      expectRefusal(await alone.call(without || "/", { method: "PUT" }), 405);
    }
  });

  test("answers nobody else's", async () => {
    for (const { path, methods } of endpoints.filter((it) => it.function !== spec.name))
      expectRefusal(await alone.call(path, { method: methods[0] as string }), 404);
  });

  test("has its own probes, with and without its name", async () => {
    for (const prefix of ["", `/${spec.name}`]) {
      expect(await alone.call(`${prefix}/`)).toMatchObject({ status: 200, text: "Hello, World!" });
      expect((await alone.call(`${prefix}/health`)).json).toMatchObject({ status: "ok" });
      const described = (await alone.call(`${prefix}/openapi.json`)).json;
      const tags = Object.values(described.paths as Record<string, Record<string, { tags: string[] }>>).flatMap((methods) =>
        Object.values(methods).flatMap(({ tags }) => tags),
      );
      expect(new Set(tags)).toEqual(new Set([spec.name]));
    }
  });
});

describe("the description of all", () => {
  type Operation = { operationId: string; responses: Record<string, unknown>; parameters?: { name: string; in: string }[] };
  test("is OpenAPI 3.1, and every operation in it has an id of its own and schemas that resolve", async () => {
    const { status, json, headers } = await app.call("/openapi.json");
    expect({ status, type: headers.get("content-type") }).toEqual({ status: 200, type: "application/json" });
    expect(json).toMatchObject({ openapi: "3.1.0", info: { title: "proxy-gpt", version: expect.any(String) } });
    const operations = Object.entries(json.paths as Record<string, Record<string, Operation>>).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
    );
    const expected = endpoints.flatMap(({ template, methods }) =>
      methods.map((method) => `${method} ${template.replace(/:(\w+)/g, "{$1}")}`),
    );
    const found = operations.map(({ path, method }) => `${method.toUpperCase()} ${path}`);
    expect(found).toEqual(expect.arrayContaining(expected));
    const ids = operations.map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { path, method, operation } of operations) {
      expect(method).toMatch(/^(get|post|put|patch|delete)$/);
      expect(path).toMatch(/^\//);
      expect(Object.keys(operation.responses).length).toBeGreaterThan(1);
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const declared = (operation.parameters ?? []).filter((parameter) => parameter.in === "path").map(({ name }) => name);
      expect(declared).toEqual(inPath);
    }
    const references = [...JSON.stringify(json).matchAll(/"\$ref":"#\/([^"]+)"/g)].map(([, pointer]) => pointer as string);
    for (const pointer of references)
      expect(
        pointer.split("/").reduce((at, key) => at?.[key], json),
        pointer,
      ).toBeTypeOf("object");
    for (const name of new Set(operations.flatMap(({ operation }) => securityOf(operation))))
      expect(json.components.securitySchemes[name]).toBeTypeOf("object");
    expect(JSON.stringify(json)).not.toContain("$schema");
  });
});
const securityOf = (operation: unknown): string[] =>
  ((operation as { security?: Record<string, unknown>[] }).security ?? []).flatMap((scheme) => Object.keys(scheme));

describe("a handler that goes wrong", () => {
  const said: Record<string, () => never> = {
    error: () => {
      throw new Error("the secret of the house");
    },
    nothing: () => {
      throw undefined;
    },
    text: () => {
      throw "the secret of the house";
    },
    circle: () => {
      const circle: Record<string, unknown> = {};
      circle.self = circle;
      throw Object.assign(new Error("the secret of the house", { cause: circle }), circle);
    },
  };
  const failing = Object.entries(said).map(([name, run]) =>
    endpoint({
      name: `odd.${name}`,
      summary: name,
      route: `POST /odd/${name}`,
      access: anyone,
      input: z.object({}),
      output: z.object({}),
      run,
    }),
  );
  const odd: FunctionSpec = {
    name: "odd",
    endpoints: [
      ...failing,
      endpoint({
        name: "odd.output",
        summary: "An answer that is not as declared",
        route: "POST /odd/output",
        access: signedIn,
        input: z.object({}),
        output: z.object({ shown: z.string() }),
        run: () => ({ hidden: "the secret of the house" }) as never,
      }),
      endpoint({
        name: "odd.columns",
        summary: "An answer with more than is declared",
        route: "GET /odd/shared",
        access: anyone,
        input: z.object({}),
        output: z.object({ shown: z.string() }),
        run: () => ({ shown: "this", hidden: "the secret of the house" }),
      }),
      endpoint({
        name: "odd.other",
        summary: "The same path by another method",
        route: "POST /odd/shared",
        access: anyone,
        input: z.object({}),
        output: z.object({}),
        run: () => ({}),
      }),
      endpoint({
        name: "odd.rejects",
        summary: "Fails a moment later",
        route: "POST /odd/rejects",
        access: { name: "failing", admit: () => Promise.reject(new Error("the secret of the house")) },
        input: z.object({}),
        output: z.object({}),
        run: () => ({}),
      }),
    ],
  };
  let served: App;
  let person: Person;
  beforeAll(async () => {
    const [user] = functions;
    served = await startApp({}, { functions: [user as FunctionSpec, odd] });
    person = await served.person();
  });
  afterAll(() => served.close());

  test.each([...Object.keys(said), "output", "rejects"])(
    "%s is a 500 that says nothing of it, and a line of log that does",
    async (name) => {
      const answer = await served.call(`/odd/${name}`, { token: person.token, body: {} });
      expectRefusal(answer, 500, "internal");
      expect(answer.text).not.toContain("secret");
      const id = answer.headers.get("x-proxy-gpt-request-id");
      const line = served.lines.find(({ severity, requestId }) => severity === "ERROR" && requestId === id);
      expect(line).toMatchObject({ message: "request failed" });
      expect(await eventOf(served, answer)).toMatchObject({ status: 500, errorCode: "internal", endedAt: expect.any(Date) });
    },
  );

  test("the process lives on", async () => expect((await served.call("/health")).status).toBe(200));

  test("what the output does not list never leaves", async () => {
    expect((await served.call("/odd/shared")).json).toEqual({ shown: "this" });
  });

  test("two endpoints may share a path, and both are described", async () => {
    expect((await served.call("/odd/shared", { body: {} })).json).toEqual({});
    const { json } = await served.call("/openapi.json");
    expect(Object.keys(json.paths["/odd/shared"]).sort()).toEqual(["get", "post"]);
    expect((await served.call("/odd/shared", { method: "PUT" })).headers.get("allow")).toBe("GET, POST, HEAD, OPTIONS");
  });

  test("two endpoints that answer the same method and path do not start", async () => {
    await expect(startApp({}, { functions: [odd, odd] })).rejects.toThrow(/Two endpoints answer/);
  });
});

test("the samples are of endpoints and streams that exist", () => {
  const names = functions.flatMap(({ endpoints }) => endpoints.map(({ name }) => name));
  expect(Object.keys(SAMPLES).filter((name) => !names.includes(name))).toEqual([]);
  expect(encodings.form({ a: 1 }).body).toBe("a=1");
});
