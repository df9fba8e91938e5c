import type { IncomingMessage } from "node:http";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { functions } from "../functions/all.ts";
import { type AnyEndpoint, type AnyStream, isRelay, isStream } from "../lib/http/endpoint.ts";
import { watch } from "./streams/talk.ts";
import { channels, expectRefusal } from "./support/answers.ts";
import { type Answer, type App, type CallOptions, type Person, startApp } from "./support/app.ts";
import {
  type Fields,
  IMAGE,
  NOTHING,
  newChat,
  newGroup,
  newMessage,
  newTemplate,
  placed,
  queryOf,
  routed,
} from "./support/samples.ts";
import { startUpstream, type Upstream } from "./support/upstream.ts";

// Who may do what, as one table. It is asked on every channel, in every encoding, and nothing else decides what is right.
//
// In the group are its owner, and the chat's owner and `member` as plain members; `exMember` was one. `user` was added to the
// chat, and `exUser` was, until they were removed; neither is in the group. The administrator and the stranger are in nothing.

const TABLE = `
                                owner user member groupOwner stranger exMember exUser admin anonymous

chat.read              private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.stream            private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.prompt            private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.prompt:otr        private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.prompt:streamed   private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.prompt:again      private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.stop              private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.stop:message      private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.ticket            private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.v1.models         private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.v1.chat.completions
                       private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.v1.chat.completions:streamed
                       private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.update            private  200   404  404    404        404      404      404    404   401
                       shared   200   403  404    404        404      404      404    404   401
                       group    200   403  403    403        404      404      404    404   401
chat.delete            private  200   404  404    404        404      404      404    404   401
                       shared   200   403  404    404        404      404      404    404   401
                       group    200   403  403    403        404      404      404    404   401
chat.user.add          private  200   404  404    404        404      404      404    404   401
                       shared   200   403  404    404        404      404      404    404   401
                       group    200   403  403    403        404      404      404    404   401
chat.user.remove:other shared   200   403  404    404        404      404      404    404   401
                       group    200   403  403    403        404      404      404    404   401
chat.user.remove:self  private  404   404  404    404        404      404      404    404   401
                       shared   404   200  404    404        404      404      404    404   401
                       group    404   200  404    404        404      404      404    404   401
chat.message.delete:owners
                       private  200   404  404    404        404      404      404    404   401
                       shared   200   403  404    404        404      404      404    404   401
                       group    200   403  403    403        404      404      404    404   401
chat.message.delete:own
                       private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.converse          private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.converse:streamed private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.conversation      private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.message.image     private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
chat.clear             private  200   404  404    404        404      404      404    404   401
                       shared   200   403  404    404        404      404      404    404   401
                       group    200   403  403    403        404      404      404    404   401
chat.index             any      200   200  200    200        200      200      200    200   401
chat.create            any      200   200  200    200        200      200      200    200   401
chat.create:grouped    group    200   404  200    200        404      404      404    404   401

chat.template.index    any      200   200  200    200        200      200      200    200   401
chat.template.create   any      200   200  200    200        200      200      200    200   401
chat.template.create:grouped
                       group    200   404  200    200        404      404      404    404   401
chat.template.read     private  200   404  404    404        404      404      404    404   401
                       group    200   404  200    200        404      404      404    404   401
chat.template.update   private  200   404  404    404        404      404      404    404   401
                       group    200   404  403    403        404      404      404    404   401
chat.template.delete   private  200   404  404    404        404      404      404    404   401
                       group    200   404  403    403        404      404      404    404   401
chat.prompt:template   group    200   404  200    200        404      404      404    404   401

img.converse           private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
img.converse:streamed  private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
img.describe           any      200   200  200    200        200      200      200    200   401
mod.check              any      200   200  200    200        200      200      200    200   401
system.chat.read       private  200   404  404    404        404      404      404    404   401
                       shared   200   200  404    404        404      404      404    404   401
                       group    200   200  200    200        404      404      404    404   401
system.chat.update     private  200   404  404    404        404      404      404    404   401
                       shared   200   403  404    404        404      404      404    404   401
                       group    200   403  403    403        404      404      404    404   401
system.read            any      200   200  200    200        200      200      200    200   401
system.update          any      403   403  403    403        403      403      403    200   401
system.events          any      403   403  403    403        403      403      403    200   401

group.create           any      200   200  200    200        200      200      200    200   401
group.index            any      200   200  200    200        200      200      200    200   401
group.read             group    200   404  200    200        404      404      404    404   401
group.members          group    200   404  200    200        404      404      404    404   401
group.members:by_id    group    200   404  200    200        404      404      404    404   401
group.update           group    403   404  403    200        404      404      404    404   401
group.delete           group    403   404  403    200        404      404      404    404   401
group.members.add      group    403   404  403    200        404      404      404    404   401
group.members.add:owner
                       group    403   404  403    200        404      404      404    404   401
group.members.remove:other
                       group    403   404  403    200        404      404      404    404   401
group.members.remove:self
                       group    200   404  200    409        404      404      404    404   401
`;

const CODES: Record<number, string> = { 401: "unauthenticated", 403: "forbidden", 404: "not_found", 409: "last_owner" };

type Kind = "private" | "shared" | "group" | "any";
const [HEAD = "", ...LINES] = TABLE.split("\n").filter((line) => line.trim() !== "");
const ACTORS = HEAD.trim().split(/\s+/);
type Row = { what: string; kind: Kind; expected: Record<string, number> };
const ROWS: Row[] = [];
let what = "";
for (const line of LINES) {
  const words = line.trim().split(/\s+/);
  const kindAt = words.findIndex((word) => /^(private|shared|group|any)$/.test(word));
  if (kindAt !== 0) what = words[0] as string;
  if (kindAt >= 0) {
    const statuses = words.slice(kindAt + 1).map(Number);
    ROWS.push({ what, kind: words[kindAt] as Kind, expected: Object.fromEntries(ACTORS.map((it, n) => [it, statuses[n] ?? 0])) });
  }
}

/** The people of the table, and what they have. */
type World = {
  people: Record<string, Person>;
  groupId: string;
  chats: Record<string, string>;
  /** A message with an image in each chat, and a template of the owner's: their own, and one that is shared with the group. */
  images: Record<string, string>;
  templates: Record<string, string>;
  /** A message of each who took part in a chat, also of those who do no more; all say the same. */
  own: Record<string, Record<string, string>>;
};
const TOOK_PART: Record<string, string[]> = {
  private: ["owner"],
  shared: ["owner", "user", "exUser"],
  group: ["owner", "user", "member", "groupOwner", "exMember", "exUser"],
};
const MINE = { prompt: "What I said", otr: true };

let app: App;
let upstream: Upstream;
let world: World;

const must = async (person: Person, path: string, body: Fields): Promise<Answer["json"]> => {
  const { status, json, text } = await app.call(path, { token: person.token, body });
  expect({ path, status, text }).toMatchObject({ status: 200 });
  return json;
};
const somebody = (name: string) => world.people[name] as Person;

/** A group like the table's: its owner, and two members. */
async function group(): Promise<string> {
  const id = await newGroup(app, somebody("groupOwner"));
  const user_ids = [somebody("owner").id, somebody("member").id];
  await must(somebody("groupOwner"), "/group/members/add", { group_id: id, user_ids });
  return id;
}

/** A chat like the table's of that kind. */
async function chat(kind: Kind, added = ["user"]): Promise<string> {
  const owner = somebody("owner");
  const id = await newChat(app, owner, kind === "group" ? { group_id: world.groupId } : {});
  const user_ids = added.map((name) => somebody(name).id);
  if (kind !== "private") await must(owner, "/chat/user/add", { chat_id: id, user_ids });
  return id;
}

/** A template like the table's of that kind. */
const template = (kind: Kind): Promise<string> =>
  newTemplate(app, somebody("owner"), kind === "group" ? { group_id: world.groupId } : {});

beforeAll(async () => {
  upstream = await startUpstream();
  app = await startApp({ API_URL: upstream.url });
  // The first of all is an administrator.
  const people: Record<string, Person> = { admin: await app.person() };
  for (const name of ACTORS) if (name !== "anonymous") people[name] ??= await app.person();
  world = { people, groupId: "", chats: {}, images: {}, templates: {}, own: {} };
  world.groupId = await group();
  const [owner, groupOwner] = [somebody("owner"), somebody("groupOwner")];
  await must(groupOwner, "/group/members/add", { group_id: world.groupId, user_ids: [somebody("exMember").id] });
  for (const kind of ["private", "shared", "group"] as const) {
    const id = await chat(kind, ["user", "exUser"]);
    world.chats[kind] = id;
    world.own[kind] = {};
    for (const name of TOOK_PART[kind] as string[]) {
      const { message } = await must(somebody(name), "/chat/prompt", { id, ...MINE });
      world.own[kind][name] = message.id;
    }
    await must(owner, `/img/${id}/img`, IMAGE);
    world.images[kind] = (await must(owner, "/chat/read", { id })).messages.at(-1).id;
    if (kind !== "private") await must(owner, "/chat/user/remove", { chat_id: id, user_ids: [somebody("exUser").id] });
  }
  for (const kind of ["private", "group"] as const) world.templates[kind] = await template(kind);
  await must(groupOwner, "/group/members/remove", { group_id: world.groupId, user_ids: [somebody("exMember").id] });
});
afterAll(async () => {
  await app.close();
  await upstream.close();
});

/** Everything that is stored, but for the log and what every request counts. */
async function dump(): Promise<Record<string, string[]>> {
  const { db, users, sessions, tickets, groups, groupMembers, chats, chatUsers, messages, images, templates, settings } =
    app.deps.store;
  const { hash, id, userId, kind, endsAt } = sessions;
  const rows = {
    sessions: await db.select({ hash, id, userId, kind, endsAt }).from(sessions),
    users: await db.select().from(users),
    tickets: await db.select().from(tickets),
    groups: await db.select().from(groups),
    groupMembers: await db.select().from(groupMembers),
    chats: await db.select().from(chats),
    chatUsers: await db.select().from(chatUsers),
    messages: await db.select().from(messages),
    images: await db.select().from(images),
    templates: await db.select().from(templates),
    settings: await db.select().from(settings),
  };
  return Object.fromEntries(Object.entries(rows).map(([table, list]) => [table, list.map((row) => JSON.stringify(row)).sort()]));
}

/** One row's question. `names`: the field that says which object is meant. What is let in asks about things that it may spoil. */
type Case = {
  names: "id" | "chat_id" | "group_id" | "template" | null;
  fields(asked: { actor: string; kind: Kind; status: number }): Promise<Fields>;
  headers?: Record<string, string>;
};
const ofChat = (more: Fields = {}): Case => ({
  names: "id",
  fields: async ({ kind }) => ({ id: world.chats[kind], ...more }),
});
/** The same where a path names the chat. */
const chosen = (more: Fields = {}): Case => ({
  names: "chat_id",
  fields: async ({ kind }) => ({ chat_id: world.chats[kind], ...more }),
});
const TEMPLATE = { name: "A template", text: "Tell me about {{country}}" };
const COMPLETION = { messages: [{ role: "user", content: "Tell me about Spain" }] };
const SPAIN = { prompt: "Tell me about Spain" };
const ownMessage = ({ kind, actor }: { kind: Kind; actor: string }) => world.own[kind]?.[actor] ?? NOTHING;
const toSpoil = async (status: number, kind: Kind) => (status === 200 ? chat(kind) : world.chats[kind]);
const groupToSpoil = async (status: number) => (status === 200 ? group() : world.groupId);

const CASES: Record<string, Case> = {
  "chat.read": ofChat(),
  "chat.stream": ofChat(),
  "chat.prompt": ofChat(SPAIN),
  "chat.prompt:otr": ofChat({ ...SPAIN, otr: true }),
  "chat.prompt:streamed": { ...ofChat({ ...SPAIN, stream: true }), headers: { accept: "text/event-stream" } },
  "chat.prompt:again": {
    names: "id",
    fields: async (asked) => ({ id: world.chats[asked.kind], ...MINE, message_id: ownMessage(asked) }),
  },
  "chat.stop": ofChat(),
  "chat.stop:message": { names: "id", fields: async ({ kind }) => ({ id: world.own[kind]?.owner }) },
  "chat.ticket": ofChat(),
  "chat.v1.models": ofChat(),
  "chat.v1.chat.completions": ofChat(COMPLETION),
  "chat.v1.chat.completions:streamed": ofChat({ ...COMPLETION, stream: true }),
  "chat.update": ofChat({ name: "Renamed", model: "gpt-4o" }),
  "chat.delete": { names: "id", fields: async ({ kind, status }) => ({ id: await toSpoil(status, kind) }) },
  "chat.user.add": {
    names: "chat_id",
    fields: async ({ kind, status }) => ({ chat_id: await toSpoil(status, kind), user_ids: [somebody("stranger").id] }),
  },
  "chat.user.remove:other": {
    names: "chat_id",
    fields: async ({ kind, status, actor }) => {
      if (status === 200) return { chat_id: await toSpoil(status, kind), user_ids: [somebody("user").id] };
      // Somebody else's removal is what the user asks for, too.
      const other = actor === "user" ? "exUser" : "user";
      const chatId = actor === "user" ? await chat(kind, ["user", "exUser"]) : world.chats[kind];
      return { chat_id: chatId, user_ids: [somebody(other).id] };
    },
  },
  "chat.user.remove:self": {
    names: "chat_id",
    fields: async ({ kind, status, actor }) => ({
      chat_id: await toSpoil(status, kind),
      user_ids: [world.people[actor]?.id ?? NOTHING],
    }),
  },
  "chat.message.delete:owners": {
    names: "id",
    fields: async ({ kind, status }) => ({
      id: status === 200 ? await newMessage(app, somebody("owner"), world.chats[kind] as string) : world.own[kind]?.owner,
    }),
  },
  "chat.message.delete:own": {
    names: "id",
    fields: async (asked) => ({
      id:
        asked.status === 200
          ? await newMessage(app, somebody(asked.actor), world.chats[asked.kind] as string)
          : ownMessage(asked),
    }),
  },
  "chat.converse": chosen({ content: SPAIN.prompt }),
  "chat.converse:streamed": { ...chosen({ content: SPAIN.prompt }), headers: { accept: "text/event-stream" } },
  "chat.conversation": chosen(),
  "chat.message.image": { names: "id", fields: async ({ kind }) => ({ id: world.images[kind] }) },
  "chat.clear": { names: "chat_id", fields: async ({ kind, status }) => ({ chat_id: await toSpoil(status, kind) }) },
  "chat.template.index": { names: null, fields: async () => ({}) },
  "chat.template.create": { names: null, fields: async () => TEMPLATE },
  "chat.template.create:grouped": { names: "group_id", fields: async () => ({ ...TEMPLATE, group_id: world.groupId }) },
  "chat.template.read": { names: "id", fields: async ({ kind }) => ({ id: world.templates[kind] }) },
  "chat.template.update": { names: "id", fields: async ({ kind }) => ({ id: world.templates[kind], text: "Other words" }) },
  "chat.template.delete": {
    names: "id",
    fields: async ({ kind, status }) => ({ id: status === 200 ? await template(kind) : world.templates[kind] }),
  },
  "chat.prompt:template": {
    names: "template",
    fields: async ({ kind, actor }) => ({
      id: world.people[actor] ? await newChat(app, somebody(actor)) : NOTHING,
      template: await template(kind),
      fields: { country: "Spain" },
    }),
  },
  "img.converse": chosen(IMAGE),
  "img.converse:streamed": { ...chosen(IMAGE), headers: { accept: "text/event-stream" } },
  "img.describe": { names: null, fields: async () => IMAGE },
  "mod.check": { names: null, fields: async () => ({ content: SPAIN.prompt }) },
  "system.chat.read": chosen(),
  "system.chat.update": chosen({ content: "Be brief." }),
  "system.read": { names: null, fields: async () => ({}) },
  "system.update": { names: null, fields: async () => ({ content: "Be brief." }) },
  "system.events": { names: null, fields: async () => ({}) },
  "chat.index": { names: null, fields: async () => ({}) },
  "chat.create": { names: null, fields: async () => ({ name: "Mine" }) },
  "chat.create:grouped": { names: "group_id", fields: async () => ({ group_id: world.groupId }) },
  "group.create": { names: null, fields: async () => ({ name: "Mine" }) },
  "group.index": { names: null, fields: async () => ({}) },
  "group.read": { names: "id", fields: async () => ({ id: world.groupId }) },
  "group.members": { names: "group_id", fields: async () => ({ group_id: world.groupId }) },
  "group.members:by_id": { names: "id", fields: async () => ({ id: world.groupId }) },
  "group.update": { names: "id", fields: async () => ({ id: world.groupId, name: "Renamed" }) },
  "group.delete": { names: "id", fields: async ({ status }) => ({ id: await groupToSpoil(status) }) },
  "group.members.add": {
    names: "group_id",
    fields: async ({ status }) => ({ group_id: await groupToSpoil(status), user_ids: [somebody("stranger").id] }),
  },
  "group.members.add:owner": {
    names: "group_id",
    fields: async ({ status, actor }) => ({
      group_id: await groupToSpoil(status),
      user_ids: [world.people[actor]?.id ?? NOTHING],
      role: "owner",
    }),
  },
  "group.members.remove:other": {
    names: "group_id",
    fields: async ({ status, actor }) => ({
      group_id: await groupToSpoil(status),
      user_ids: [somebody(actor === "member" ? "owner" : "member").id],
    }),
  },
  "group.members.remove:self": {
    names: "group_id",
    fields: async ({ status, actor }) => ({
      group_id: await groupToSpoil(status),
      user_ids: [world.people[actor]?.id ?? NOTHING],
    }),
  },
};

const listed = new Map(
  functions.flatMap(({ endpoints }) =>
    endpoints
      .filter((entry) => !isRelay(entry))
      .map((entry) => [entry.name, { entry: entry as AnyEndpoint | AnyStream, ...routed(entry.route) }] as const),
  ),
);
type Listed = NonNullable<ReturnType<(typeof listed)["get"]>>;
const listedFor = (what: string) => listed.get(what.split(":", 1)[0] as string) as Listed;

type Asked = Pick<Answer, "status" | "headers" | "text" | "json">;
/** A way to ask: how one says who one is, and how the fields are sent. */
type Way = { name: string; ask(fields: Fields, headers?: Record<string, string>): Promise<Asked> };

const JSON_TYPE = { "content-type": "application/json" };
const FORM_TYPE = { "content-type": "application/x-www-form-urlencoded" };
/** A form cannot say what lies in other fields; its type may be said of JSON, as documented. */
const formOf = (fields: Fields) => {
  const nested = Object.values(fields).some((value) => [value].flat().some((it) => typeof it === "object"));
  return nested ? JSON.stringify(fields) : queryOf(fields);
};

/** Every channel by which that person can say who they are; the anonymous have none, and a token in a query says nothing. */
function waysOf({ entry, template, methods }: Listed, person: Person | null): Way[] {
  const presented: [string, Record<string, string>][] = person
    ? Object.entries(channels).map(([name, present]) => [name, present(person)])
    : [["nothing", {}]];
  const send = isStream(entry) ? askStream : (path: string, options: CallOptions) => app.call(path, options);
  const posting = (
    name: string,
    own: Record<string, string>,
    encode: (fields: Fields) => CallOptions,
    more: Fields = {},
  ): Way => ({
    name,
    ask: (fields, headers = {}) => {
      const { path, rest } = placed({ template }, fields);
      const { body, headers: type } = encode({ ...rest, ...more });
      return send(path, { method: "POST", body, headers: { ...type, ...own, ...headers } });
    },
  });
  const json = (fields: Fields): CallOptions => ({ body: JSON.stringify(fields), headers: JSON_TYPE });
  const form = (fields: Fields): CallOptions => ({ body: formOf(fields), headers: FORM_TYPE });
  const getting = (name: string, own: Record<string, string>, more: Fields = {}, ask = send): Way => ({
    name,
    ask: (fields, headers = {}) => {
      const { path, rest } = placed({ template }, fields);
      return ask(`${path}?${queryOf({ ...rest, ...more })}`, { headers: { ...own, ...headers } });
    },
  });
  const ways = presented.flatMap(([name, own]) => [
    ...(methods.includes("POST") ? [posting(`${name}, JSON`, own, json), posting(`${name}, form`, own, form)] : []),
    ...(methods.includes("GET") ? [getting(`${name}, GET`, own)] : []),
    ...(isStream(entry) ? [getting(`${name}, WebSocket`, own, {}, askSocket)] : []),
  ]);
  if (!isStream(entry) || !person) return ways;
  const { token } = person;
  return [
    ...ways,
    getting("token in the query", {}, { token }),
    getting("token in the query, WebSocket", {}, { token }, askSocket),
    posting("token in JSON", {}, json, { token }),
    posting("token in a form", {}, form, { token }),
  ];
}

/** Asks for a stream, and leaves it as soon as there is one. */
async function askStream(path: string, { method = "GET", headers = {}, body }: CallOptions): Promise<Asked> {
  const watcher = await watch(app.url + path, { method, headers, ...(body !== undefined && { body: String(body) }) });
  if (watcher.status === 200) watcher.leave();
  else await watcher.over;
  const said = new Headers(Object.entries(watcher.headers).map(([name, value]): [string, string] => [name, String(value)]));
  const text = watcher.status === 200 ? "" : watcher.text();
  return { status: watcher.status, headers: said, text, json: text && JSON.parse(text) };
}

/** The same by WebSocket. One that is taken counts as 200. */
function askSocket(path: string, { headers = {} }: CallOptions): Promise<Asked> {
  const socket = new WebSocket(app.url.replace("http", "ws") + path, { headers });
  socket.on("error", () => {});
  return new Promise((resolve) => {
    socket.once("open", () => {
      socket.terminate();
      resolve({ status: 200, headers: new Headers(), text: "", json: "" });
    });
    socket.once("unexpected-response", async (_req, res: IncomingMessage) => {
      const text = (await res.toArray()).join("");
      const said = new Headers(Object.entries(res.headers).map(([name, value]): [string, string] => [name, String(value)]));
      resolve({ status: res.statusCode ?? 0, headers: said, text, json: JSON.parse(text) });
    });
  });
}

/** An answer without what is of its request alone. */
function comparable({ status, headers, text }: Asked) {
  const id = headers.get("x-proxy-gpt-request-id") ?? "";
  const own = ["date", "x-proxy-gpt-request-id"];
  return { status, headers: [...headers].filter(([name]) => !own.includes(name)), text: text.replaceAll(id, "") };
}

/** Whether somebody sees what a row is about: a chat, or else the group. */
const sees = ({ what, kind }: Row, actor: string): boolean => {
  const ofTemplate = /^chat\.(template\.(read|update|delete)|prompt:template)$/.test(what);
  const ofChat = /^(chat|img|system)\./.test(what) && !what.endsWith(":grouped");
  const read = ofTemplate ? "chat.template.read" : ofChat ? "chat.read" : "group.read";
  return ROWS.find((row) => row.what === read && row.kind === kind)?.expected[actor] === 200;
};

test("the table asks about every endpoint and stream but those of people and of /v1, each of its rows about one", () => {
  const names = functions
    .filter(({ name }) => !/^(user|proxy)$/.test(name))
    .flatMap(({ endpoints }) => endpoints.map((it) => it.name));
  const asked = ROWS.map(({ what }) => what);
  expect(new Set(asked.map((what) => what.split(":", 1)[0]))).toEqual(new Set(names));
  expect(new Set(asked)).toEqual(new Set(Object.keys(CASES)));
  for (const { what, kind, expected } of ROWS) {
    expect(listedFor(what), what).toBeDefined();
    expect(Object.values(expected), `${what} ${kind}`).toHaveLength(ACTORS.length);
    for (const status of Object.values(expected)) expect([200, 401, 403, 404, 409]).toContain(status);
  }
});

describe.each(ROWS.map((row) => [row.what, row.kind, row] as const))("%s, %s:", (what, kind, row) => {
  const { names, fields, headers } = CASES[what] as Case;
  const it = listedFor(what);

  test.each(ACTORS.map((actor) => [actor, row.expected[actor] ?? 0] as const))("to %s it is %i", async (actor, status) => {
    const person = world.people[actor] ?? null;
    const ways = waysOf(it, person);
    const asked = await Promise.all(ways.map(async (way) => ({ way, given: await fields({ actor, kind, status }) })));
    const before = await dump();
    const answers = await Promise.all(
      asked.map(async ({ way, given }) => ({ way, given, answer: await way.ask(given, headers) })),
    );
    for (const { way, answer } of answers) {
      const { text } = answer;
      expect({ way: way.name, status: answer.status, text }).toMatchObject({ status });
      if (status === 200) expectDone(it, answer, person, headers);
      else expectRefusal(answer, status, CODES[status]);
    }
    if (status === 200) return;
    // What was refused was not done either.
    expect(await dump()).toEqual(before);
    if (status !== 404 || names === null || sees(row, actor)) return;
    // What is not theirs to see answers as if it were not there.
    const absent = await Promise.all(answers.map(({ way, given }) => way.ask({ ...given, [names]: NOTHING }, headers)));
    expect(answers.map(({ answer }) => comparable(answer))).toEqual(absent.map(comparable));
    expect(await dump()).toEqual(before);
  });
});

/** An answer that somebody was let in to: of the kind that was asked for, and in their own name. */
function expectDone({ entry }: Listed, answer: Asked, person: Person | null, headers: Record<string, string> = {}): void {
  if (isStream(entry)) return;
  const type = answer.headers.get("content-type");
  if (type === "text/event-stream") {
    expect(entry.streams).toBeDefined();
    expect(answer.text).toMatch(/"partial":false}|\[DONE\]/);
    return;
  }
  expect(headers.accept ?? "").not.toBe("text/event-stream");
  expect(type).toBe("application/json");
  const { json } = answer;
  if (json.message) expect(json.message).toMatchObject({ user_id: person?.id, username: person?.username });
  if (/^(chat|group)\.create$/.test(entry.name)) expect(json.owner_id ?? json.role).toBe(json.owner_id ? person?.id : "owner");
  for (const one of json.groups ?? []) expect(one.role).toMatch(/^(owner|member)$/);
}
