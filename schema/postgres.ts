import { postgres } from "./kit.ts";
import { tables } from "./tables.ts";

export const { users, sessions, events, outcomes, usage, settings, throttles } = tables(postgres);
