import type { FunctionSpec } from "../../lib/http/endpoint.ts";
import { NEEDS } from "../../lib/needs.ts";
import { clear } from "./clear.ts";
import { conversation } from "./conversation.ts";
import { converse } from "./converse.ts";
import { create } from "./create.ts";
import { remove } from "./delete.ts";
import { listChats } from "./list.ts";
import { removeMessage } from "./message/delete.ts";
import { readImage } from "./message/image.ts";
import { promptChat } from "./prompt.ts";
import { read } from "./read.ts";
import { stop } from "./stop.ts";
import { watch } from "./stream.ts";
import { createTemplate } from "./template/create.ts";
import { removeTemplate } from "./template/delete.ts";
import { listTemplates } from "./template/list.ts";
import { readTemplate } from "./template/read.ts";
import { updateTemplate } from "./template/update.ts";
import { ticket } from "./ticket.ts";
import { update } from "./update.ts";
import { addUsers } from "./user/add.ts";
import { removeUsers } from "./user/remove.ts";
import { completions } from "./v1/completions.ts";
import { models } from "./v1/models.ts";

/** The function `chat`, as it is deployed. */
export const chat = {
  name: "chat",
  endpoints: [
    ...[create, read, update, remove, listChats, promptChat, removeMessage, readImage, stop, watch, ticket],
    ...[addUsers, removeUsers, completions, models],
    ...[converse, conversation, clear],
    ...[createTemplate, readTemplate, updateTemplate, removeTemplate, listTemplates],
  ],
  needs: NEEDS.chat,
} as const satisfies FunctionSpec;
