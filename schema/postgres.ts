import { postgres } from "./kit.ts";
import { tables } from "./tables.ts";

export const { users, sessions, events, usage, settings, throttles } = tables(postgres);
