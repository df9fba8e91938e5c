/** What a function uses besides the store. In the cloud each is given only the secrets of what it uses. */
export type Need = "upstream" | "bus";

/** By the function's name: a start is refused for what is missing before anything of the function is loaded. */
export const NEEDS = {
  user: [],
  group: ["bus"],
  chat: ["upstream", "bus"],
  proxy: ["upstream"],
  system: [],
  mod: ["upstream"],
  img: ["upstream", "bus"],
} as const satisfies Record<string, readonly Need[]>;
