import type { Answer } from "../support/app.ts";

/** Somebody who asks at a host: their cookie is kept and sent as a browser does, at whatever function. */
export class Caller {
  readonly url: string;
  id = "";
  username = "";
  /** The token of their session, which is what the cookie holds. */
  token = "";
  #cookie: string | null = null;

  constructor(url: string) {
    this.url = url;
  }

  get = (path: string): Promise<Answer> => this.#ask(path, {});
  post = (path: string, body: object = {}, headers: Record<string, string> = {}): Promise<Answer> =>
    this.#ask(path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify(body),
    });

  async signIn(username: string, password: string): Promise<Answer> {
    const answer = await this.post("/user/login", { username, password });
    if (answer.status === 200) Object.assign(this, { id: answer.json.user.id, username, token: answer.json.token });
    return answer;
  }

  async #ask(path: string, { headers, ...init }: RequestInit): Promise<Answer> {
    const cookie = this.#cookie === null ? {} : { cookie: this.#cookie };
    const answer = await fetch(this.url + path, { ...init, headers: { ...cookie, ...(headers as Record<string, string>) } });
    const set = answer.headers.getSetCookie().find((it) => it.startsWith("sess="));
    if (set !== undefined) this.#cookie = set.slice(0, set.indexOf(";"));
    const text = await answer.text();
    const isJson = answer.headers.get("content-type")?.startsWith("application/json");
    return { status: answer.status, headers: answer.headers, text, json: isJson ? JSON.parse(text) : undefined };
  }
}

/** The JSON of what must succeed. */
export async function must(asked: Promise<Answer>): Promise<Answer["json"]> {
  const { status, json, text } = await asked;
  if (status !== 200) throw new Error(`${status}: ${text}`);
  return json;
}
