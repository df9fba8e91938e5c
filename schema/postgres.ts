import { postgres } from "./kit.ts";
import { tables } from "./tables.ts";

const all = tables(postgres);
export const { users, sessions, tickets, groups, groupMembers, chats, chatUsers, messages, images, templates } = all;
export const { events, outcomes, usage, settings, throttles } = all;
