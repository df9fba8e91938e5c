import * as z from "zod";
import { version } from "../version.ts";
import { type AnyEndpoint, type FunctionSpec, isRelay, parseRoute } from "./endpoint.ts";
import { ApiError, type ErrorCode } from "./error.ts";

type Json = Record<string, unknown>;

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
      paths[path] = { ...(paths[path] as Json | undefined), ...Object.fromEntries(operations) };
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
      },
    },
  };
}

function operation(entry: AnyEndpoint, method: "GET" | "POST", tag: string, several: boolean): Json {
  const input = schemaOf(entry.input, "input");
  const content = { schema: input };
  const errors = [...COMMON_ERRORS, ...(entry.access.open ? [] : GUARDED_ERRORS), ...(entry.errors ?? [])];
  return {
    operationId: several && method === "POST" ? `${entry.name}.post` : entry.name,
    summary: entry.summary,
    tags: [tag],
    ...(method === "GET" && { parameters: queryParameters(input) }),
    ...(method === "POST" &&
      Object.keys((input.properties as Json) ?? {}).length > 0 && {
        requestBody: { content: { "application/json": content, "application/x-www-form-urlencoded": content } },
      }),
    responses: {
      200: { description: "Done.", content: { "application/json": { schema: schemaOf(entry.output, "output") } } },
      ...errorResponses(errors),
    },
    security: entry.access.open ? [] : [{ bearer: [] }, { basic: [] }, { cookie: [] }],
  };
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

function queryParameters(input: Json): Json[] {
  const required = new Set((input.required as string[]) ?? []);
  return Object.entries((input.properties as Json) ?? {}).map(([name, schema]) => ({
    name,
    in: "query",
    required: required.has(name),
    schema,
  }));
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
