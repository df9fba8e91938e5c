import { type Chats, person, sent, type Turn } from "../chat/support.ts";
import type { Answer, Person } from "../support/app.ts";

type Fields = Record<string, unknown>;

/** Somebody who asks, in their own name. */
export type Asker = Person & {
  get(path: string, headers?: Record<string, string>): Promise<Answer>;
  post(path: string, body?: Fields, headers?: Record<string, string>): Promise<Answer>;
};

/** Somebody new, unless told who. */
export async function asker({ app }: Pick<Chats, "app">, someone?: Person): Promise<Asker> {
  const who = someone ?? (await person(app.deps.store));
  return {
    ...who,
    get: (path, headers = {}) => app.call(path, { token: who.token, headers }),
    post: (path, body = {}, headers = {}) => app.call(path, { token: who.token, body, headers }),
  };
}

export async function askers(chats: Pick<Chats, "app">, count: number): Promise<Asker[]> {
  return Promise.all(Array.from({ length: count }, () => asker(chats)));
}

/** The answer to what must succeed. */
export async function must(answer: Promise<Answer>): Promise<Answer["json"]> {
  const { status, json, text } = await answer;
  if (status !== 200) throw new Error(`${status}: ${text}`);
  return json;
}

/** What the model was asked last. */
export async function lastTurns({ upstream }: Pick<Chats, "upstream">): Promise<Turn[]> {
  const last = upstream.requests.at(-1);
  if (!last) throw new Error("the upstream was not asked");
  return (await sent(last)).messages;
}

/** The address of an image, which nobody fetches. */
export const IMAGE = "https://images.example/cat.png";
