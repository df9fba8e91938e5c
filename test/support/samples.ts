import { parseRoute } from "../../lib/http/endpoint.ts";
import { type App, PASSWORD, type Person } from "./app.ts";

/** Fields as an endpoint takes them; those of its path among them. */
export type Fields = Record<string, unknown>;
type Sample = (app: App, person: Person) => Promise<Fields>;

let count = 0;

/** The answer to what must succeed. */
async function made(app: App, { token }: Person, path: string, body: Fields) {
  const { status, json, text } = await app.call(path, { token, body });
  if (status !== 200) throw new Error(`${path} answered ${status}: ${text}`);
  return json;
}
export const newGroup = async (app: App, person: Person): Promise<string> =>
  (await made(app, person, "/group/create", { name: `Group ${++count}` })).id;
export const newChat = async (app: App, person: Person, fields: Fields = {}): Promise<string> =>
  (await made(app, person, "/chat/create", fields)).id;
/** A message that needs no model. */
export const newMessage = async (app: App, person: Person, chatId: string): Promise<string> =>
  (await made(app, person, "/chat/prompt", { id: chatId, prompt: `Aside ${++count}`, otr: true })).message.id;

export const newTemplate = async (app: App, person: Person, fields: Fields = {}): Promise<string> =>
  (
    await made(app, person, "/chat/template/create", {
      name: `Template ${++count}`,
      text: "Tell me about {{country}}",
      ...fields,
    })
  ).id;
/** An image, and what is asked about it. */
export const IMAGE = { content: "What is on it?", url: "https://pictures.example/spain.png" };

/**
 * Fields with which an endpoint answers 200 to that person. One that needs none is not here; what asks the model needs an
 * upstream.
 */
export const SAMPLES: Readonly<Record<string, Sample>> = {
  "user.signup": async () => ({ username: `sample-${++count}-${process.pid}`, password: PASSWORD }),
  "user.login": async (_app, { username }) => ({ username, password: PASSWORD }),
  "user.update": async (_app, { username }) => ({ username, name: "A new name" }),
  "user.password.update": async () => ({ password: PASSWORD, new_password: PASSWORD }),
  "user.key.create": async () => ({ label: "sample" }),
  "user.key.delete": async (app, person) => ({
    id: (await made(app, person, "/user/key/create", { label: "to be deleted" })).key.id,
  }),
  "group.create": async () => ({ name: "A group", description: "Of people" }),
  "group.read": async (app, person) => ({ id: await newGroup(app, person) }),
  "group.update": async (app, person) => ({ id: await newGroup(app, person), name: "Another name" }),
  "group.delete": async (app, person) => ({ id: await newGroup(app, person) }),
  "group.members": async (app, person) => ({ group_id: await newGroup(app, person) }),
  "group.members.add": async (app, person) => ({
    group_id: await newGroup(app, person),
    usernames: [(await app.person()).username],
  }),
  "group.members.remove": async (app, person) => {
    const [groupId, other] = [await newGroup(app, person), await app.person()];
    await made(app, person, "/group/members/add", { group_id: groupId, user_ids: [other.id] });
    return { group_id: groupId, user_ids: [other.id] };
  },
  "chat.read": async (app, person) => {
    const id = await newChat(app, person);
    await newMessage(app, person, id);
    return { id };
  },
  "chat.update": async (app, person) => ({ id: await newChat(app, person), name: "Another name" }),
  "chat.delete": async (app, person) => ({ id: await newChat(app, person) }),
  "chat.prompt": async (app, person) => ({ id: await newChat(app, person), prompt: "Tell me about Spain" }),
  "chat.stop": async (app, person) => ({ id: await newChat(app, person) }),
  "chat.ticket": async (app, person) => ({ id: await newChat(app, person) }),
  "chat.stream": async (app, person) => ({ id: await newChat(app, person) }),
  "chat.user.add": async (app, person) => ({ chat_id: await newChat(app, person), user_ids: [(await app.person()).id] }),
  "chat.user.remove": async (app, person) => {
    const [chatId, other] = [await newChat(app, person), await app.person()];
    await made(app, person, "/chat/user/add", { chat_id: chatId, user_ids: [other.id] });
    return { chat_id: chatId, user_ids: [other.id] };
  },
  "chat.message.delete": async (app, person) => ({ id: await newMessage(app, person, await newChat(app, person)) }),
  "chat.v1.models": async (app, person) => ({ id: await newChat(app, person) }),
  "chat.v1.chat.completions": async (app, person) => ({
    id: await newChat(app, person),
    messages: [{ role: "user", content: "Tell me about Spain" }],
  }),
  "chat.converse": async (app, person) => ({ chat_id: await newChat(app, person), content: "Tell me about Spain" }),
  "chat.conversation": async (app, person) => {
    const chat_id = await newChat(app, person);
    await newMessage(app, person, chat_id);
    return { chat_id };
  },
  "chat.clear": async (app, person) => ({ chat_id: await newChat(app, person) }),
  "chat.message.image": async (app, person) => {
    const id = await newChat(app, person);
    await made(app, person, `/img/${id}/img`, IMAGE);
    const [message] = (await made(app, person, "/chat/read", { id })).messages;
    return { id: message.id };
  },
  "chat.template.create": async () => ({ name: "A template", text: "Tell me about {{country}}" }),
  "chat.template.read": async (app, person) => ({ id: await newTemplate(app, person) }),
  "chat.template.update": async (app, person) => ({ id: await newTemplate(app, person), name: "Another name" }),
  "chat.template.delete": async (app, person) => ({ id: await newTemplate(app, person) }),
  "system.update": async () => ({ content: "Be brief." }),
  "system.chat.read": async (app, person) => ({ chat_id: await newChat(app, person) }),
  "system.chat.update": async (app, person) => ({ chat_id: await newChat(app, person), content: "Be brief." }),
  "mod.check": async () => ({ content: "Tell me about Spain" }),
  "img.describe": async () => IMAGE,
  "img.converse": async (app, person) => ({ chat_id: await newChat(app, person), ...IMAGE }),
};

/** An id that nothing has. */
export const NOTHING = "00000000-0000-7000-8000-000000000000";
const PARAMETER = /(?<=\/):(\w+)/g;

/** A route's methods and its path; where a parameter stands in that, an id that nothing has. */
export function routed(route: Parameters<typeof parseRoute>[0]) {
  const { methods, path } = parseRoute(route);
  return { methods, template: path, path: path.replace(PARAMETER, NOTHING) };
}

/** A request's path with its parameters, and the fields that are left for its query or body. */
export function placed({ template }: { template: string }, fields: Fields): { path: string; rest: Fields } {
  const rest = { ...fields };
  const path = template.replace(PARAMETER, (_, name: string) => {
    delete rest[name];
    return encodeURIComponent(String(fields[name]));
  });
  return { path, rest };
}

/** Fields in a query; what is given several times, several times. */
export const queryOf = (fields: Fields): string =>
  new URLSearchParams(
    Object.entries(fields).flatMap(([name, value]) => [value].flat().map((one): [string, string] => [name, String(one)])),
  ).toString();
