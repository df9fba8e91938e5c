import { ApiError } from "../http/error.ts";
import { named, type People } from "../http/fields.ts";
import * as users from "../repo/users.ts";
import type { Store } from "../store/store.ts";

/** The ids of the people named. Throws `invalid_input` where nobody is named, `not_found` where one of them does not exist. */
export async function existing(store: Store, people: People): Promise<string[]> {
  const { ids, usernames } = named(people);
  if (ids.length + usernames.length === 0) throw new ApiError("invalid_input", { message: "user_ids or usernames is missing." });
  const found = await users.findAmong(store, ids, usernames);
  // Somebody's username may look like somebody else's id.
  const unknown =
    ids.find((it) => !found.some(({ id }) => id === it)) ??
    usernames.find((it) => !found.some(({ username }) => username === it));
  if (unknown !== undefined) throw new ApiError("not_found", { message: `There is no user ${unknown}.` });
  return found.map(({ id }) => id);
}

/** The ids of the members named, by id or username. Throws `not_found` where one is none. */
export function membersNamed(members: readonly { id: string; username: string }[], people: People): string[] {
  const { ids, usernames } = named(people);
  if (ids.length + usernames.length === 0) throw new ApiError("invalid_input", { message: "user_ids or usernames is missing." });
  // Somebody's username may look like somebody else's id.
  const taking = (key: "id" | "username") => (it: string) => {
    const member = members.find((one) => one[key] === it);
    if (!member) throw new ApiError("not_found", { message: `${it} does not take part by being added here.` });
    return member.id;
  };
  return [...new Set([...ids.map(taking("id")), ...usernames.map(taking("username"))])];
}
