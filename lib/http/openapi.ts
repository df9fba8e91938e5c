import * as z from "zod";
import { version } from "../version.ts";
import { type AnyEndpoint, type AnyStream, type FunctionSpec, isRelay, isStream, parseRoute } from "./endpoint.ts";
import { ApiError, type ErrorCode } from "./error.ts";

type Json = Record<string, unknown>;

/** A segment of a route that is a field of the input. */
const PARAMETER = /(?<=\/):(\w+)/g;
const EVENTS = { "text/event-stream": { schema: { type: "string" } } };

const COMMON_ERRORS: readonly ErrorCode[] = ["invalid_input", "too_large", "unsupported_media_type", "store_unavailable"];
const GUARDED_ERRORS: readonly ErrorCode[] = ["unauthenticated"];

/** The OpenAPI 3.1 description of functions, derived from their endpoints. */
export function openApi(functions: readonly FunctionSpec[]): Json {
  const paths: Record<string, Json> = {};
  for (const { name, endpoints } of functions) {
    for (const entry of endpoints) {
      if (isRelay(entry)) {
        paths[`${entry.prefix}{path}`] = relayed(entry.summary, entry.name, name);
        continue;
      }
      const { methods, path } = parseRoute(entry.route);
      const operations = methods.map((method) => [method.toLowerCase(), operation(entry, method, name, methods.length > 1)]);
      const template = path.replace(PARAMETER, "{$1}");
      paths[template] = { ...(paths[template] as Json | undefined), ...Object.fromEntries(operations) };
    }
  }
  return {
    openapi: "3.1.0",
    info: { title: "proxy-gpt", version, summary: "One OpenAI key, a whole team.", license: { name: "MIT", identifier: "MIT" } },
    paths,
    components: {
      schemas: { Error: ERROR },
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", description: "A token from /user/login, or an API key." },
        basic: { type: "http", scheme: "basic", description: "The username, and a token as the password." },
        cookie: { type: "apiKey", in: "cookie", name: "sess" },
        token: { type: "apiKey", in: "query", name: "token", description: "On streams alone: a token, or a ticket." },
      },
    },
  };
}

function operation(entry: AnyEndpoint | AnyStream, method: "GET" | "POST", tag: string, several: boolean): Json {
  const input = schemaOf(entry.input, "input");
  const inPath = [...entry.route.matchAll(PARAMETER)].map(([, name]) => name as string);
  const parameters = parametersOf(input, inPath).filter((it) => method === "GET" || it.in === "path");
  const body = bodyOf(input, inPath);
  const content = { schema: body };
  const errors = [...COMMON_ERRORS, ...(entry.access.open ? [] : GUARDED_ERRORS), ...(entry.errors ?? [])];
  return {
    operationId: several && method === "POST" ? `${entry.name}.post` : entry.name,
    summary: entry.summary,
    tags: [tag],
    ...((method === "GET" || parameters.length > 0) && { parameters }),
    ...(method === "POST" &&
      Object.keys((body.properties as Json) ?? {}).length > 0 && {
        requestBody: { content: { "application/json": content, "application/x-www-form-urlencoded": content } },
      }),
    responses: {
      ...answers(entry),
      ...errorResponses(errors),
    },
    security: entry.access.open
      ? []
      : [{ bearer: [] }, { basic: [] }, { cookie: [] }, ...(isStream(entry) ? [{ token: [] }] : [])],
  };
}

function answers(entry: AnyEndpoint | AnyStream): Json {
  if (isStream(entry)) {
    const description = "Frames, each a JSON object, until the connection ends.";
    return { 101: { description: `${description} One text message each.` }, 200: { description, content: EVENTS } };
  }
  const json = { "application/json": { schema: schemaOf(entry.output, "output") } };
  return { 200: { description: "Done.", content: { ...json, ...(entry.streams && EVENTS) } } };
}

function relayed(summary: string, operationId: string, tag: string): Json {
  const answer = { description: "The upstream's answer, as it is.", content: { "*/*": {} } };
  const path = {
    name: "path",
    in: "path",
    required: true,
    schema: { type: "string" },
    description: "Any path of the upstream below /v1/.",
  };
  const each = (method: string) => ({
    operationId: `${operationId}.${method}`,
    summary,
    tags: [tag],
    parameters: [path],
    responses: {
      default: answer,
      ...errorResponses(["unauthenticated", "path_denied", "upstream_unreachable", "store_unavailable"]),
    },
    security: [{ bearer: [] }, { basic: [] }, { cookie: [] }],
  });
  return { get: each("get"), post: each("post"), delete: each("delete") };
}

function parametersOf(input: Json, inPath: readonly string[]): Json[] {
  const required = new Set((input.required as string[]) ?? []);
  return Object.entries((input.properties as Json) ?? {}).map(([name, schema]) => {
    const where = inPath.includes(name) ? "path" : "query";
    return { name, in: where, required: where === "path" || required.has(name), schema };
  });
}

/** What of an input is not in the path already. */
function bodyOf(input: Json, inPath: readonly string[]): Json {
  if (inPath.length === 0) return input;
  const properties = Object.entries((input.properties as Json) ?? {}).filter(([name]) => !inPath.includes(name));
  const required = ((input.required as string[]) ?? []).filter((name) => !inPath.includes(name));
  return { ...input, properties: Object.fromEntries(properties), required };
}

function errorResponses(codes: readonly ErrorCode[]): Json {
  const byStatus = new Map<number, string[]>();
  for (const code of codes) {
    const { status, message } = new ApiError(code);
    byStatus.set(status, [...(byStatus.get(status) ?? []), `\`${code}\`: ${message}`]);
  }
  const content = { "application/json": { schema: { $ref: "#/components/schemas/Error" } } };
  return Object.fromEntries([...byStatus].map(([status, texts]) => [status, { description: texts.join("\n"), content }]));
}

function schemaOf(schema: z.ZodType, io: "input" | "output"): Json {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: "any" }) as Json;
  return rest;
}

const ERROR: Json = {
  type: "object",
  required: ["error"],
  properties: {
    error: {
      type: "object",
      required: ["message", "type", "code", "param", "source", "request_id"],
      properties: {
        message: { type: "string" },
        type: { type: "string" },
        code: { type: "string" },
        param: { type: ["string", "null"] },
        source: { const: "gateway" },
        request_id: { type: "string" },
      },
    },
  },
};
