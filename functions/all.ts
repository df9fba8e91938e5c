import type { FunctionSpec } from "../lib/http/endpoint.ts";
import { chat } from "./chat/endpoints.ts";
import { group } from "./group/endpoints.ts";
import { img } from "./img/endpoints.ts";
import { mod } from "./mod/endpoints.ts";
import { proxy } from "./proxy/endpoints.ts";
import { system } from "./system/endpoints.ts";
import { user } from "./user/endpoints.ts";

/** Every function, as one machine serves them together. */
export const functions: readonly FunctionSpec[] = [user, group, chat, proxy, system, mod, img];
