import { writeFileSync } from "node:fs";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { functionRoutes } from "./google-functions.ts";
import { runRoutes } from "./google-run.ts";
import { secretRoutes } from "./google-secrets.ts";

export const PROJECT = "demo-project";
export const REGION = "us-central1";

/** A request of gcloud: `POST secretmanager /v1/projects/…`, its query and its JSON, or `null` where the body is none. */
export type Asked = { what: string; query: Record<string, string>; body: Json };
// biome-ignore lint/suspicious/noExplicitAny: a test asserts what the JSON is.
export type Json = any;

/** What is answered to a method, an API and a path: JSON, or a response that is ready. `found`: the path's groups. */
export type Route = [method: string, api: string, path: RegExp, answer: (found: string[], call: Call) => object];
type Policy = { etag: string; bindings: { role: string; members: string[] }[] };
type Secret = { labels: Record<string, string>; versions: string[]; policy: Policy };

export type Google = {
  /** What gcloud must see of the environment to speak to this stand-in alone. */
  env: Record<string, string>;
  /** Every request since the start, oldest first. Tests may empty it. */
  asked: Asked[];
  /** What was made, by name: accounts by their address, functions and services as they were posted. */
  apis: Set<string>;
  accounts: Set<string>;
  secrets: Map<string, Secret>;
  functions: Map<string, Json>;
  services: Map<string, Json>;
  /** Who may call each function, or service. */
  callers: Map<string, string[]>;
  /** What was uploaded last as a function's source. */
  sources: Map<string, Buffer>;
  /** How many policies are refused because the accounts in them are not known everywhere yet. */
  lag: number;
  /** Functions whose build fails, whatever is deployed. */
  broken: Set<string>;
  /** Answers what somebody asks of a deployed function: its name, and the path below it. */
  serve: (name: string, path: string) => Promise<Response> | Response;
  close(): Promise<void>;
};

/**
 * The part of Google's APIs that `deploy.sh` uses, on loopback and in memory. gcloud reaches it as its proxy, because it puts
 * regions before the names of hosts: each API has the host `NAME.google.test`. Its token and configuration are in `folder`.
 */
export async function startGoogle(folder: string): Promise<Google> {
  const server = createServer(async (req, res) => {
    const call = await callOf(req);
    const answer = await answerTo(call, req.method === "GET" || req.method === "HEAD");
    res.writeHead(answer.status, { "content-type": answer.headers.get("content-type") ?? "application/json" });
    res.end(Buffer.from(await answer.arrayBuffer()));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const origin = `http://127.0.0.1:${port}`;

  const answerTo = async (call: Call, reads: boolean): Promise<Response> => {
    if (call.api === "127") return atOrigin(call);
    google.asked.push({ what: `${call.method} ${call.api} ${call.path}`, query: call.query, body: call.json });
    if (!ALWAYS_ON.has(call.api) && !google.apis.has(`${call.api}.googleapis.com`))
      return failed(403, "PERMISSION_DENIED", `The API ${call.api} has not been used in project 123 before or it is disabled.`);
    for (const [method, api, pattern, answer] of routes) {
      const match = method === call.method && api === call.api && pattern.exec(call.path);
      if (!match) continue;
      const answered = answer(match.slice(1).map(decodeURIComponent), call);
      return answered instanceof Response ? answered : Response.json(answered);
    }
    return failed(404, "NOT_FOUND", `${reads ? "nothing is" : "nobody listens"} at ${call.path}`);
  };
  /** Where sources are uploaded, and what was deployed is served. */
  const atOrigin = async ({ method, path, body }: Call): Promise<Response> => {
    const [first = "", ...rest] = path
      .slice(1)
      .replace(/^run\//, "")
      .split("/");
    if (method === "PUT" && first === "upload") {
      uploads.set(rest[0] ?? "", body);
      return new Response();
    }
    const known = google.functions.has(first) || google.services.has(first);
    return known ? google.serve(first, `/${rest.join("/")}`) : failed(404, "NOT_FOUND", "no such function");
  };
  const uploads = new Map<string, Buffer>();
  const routes: Route[] = [
    ...functionRoutes(() => google, uploads, origin),
    ...secretRoutes(() => google),
    ...runRoutes(() => google, origin),
    [
      "GET",
      "cloudresourcemanager",
      inProject(""),
      () => ({ projectId: PROJECT, projectNumber: "123", lifecycleState: "ACTIVE" }),
    ],

    ["POST", "cloudresourcemanager", inProject(":getIamPolicy"), () => ({ version: 1, etag: "AAAA", bindings: [] })],
    [
      "GET",
      "cloudbuild",
      inProject("/locations/[^/]+/defaultServiceAccount"),
      () => ({ serviceAccountEmail: `projects/${PROJECT}/serviceAccounts/123-compute@developer.gserviceaccount.com` }),
    ],

    ["GET", "serviceusage", inProject("/services"), () => ({ services: [...google.apis].map(apiNamed) })],
    ["GET", "serviceusage", inProject("/services/(.+)"), ([name = ""]) => apiNamed(name)],
    [
      "POST",
      "serviceusage",
      inProject("/services:batchEnable"),
      (_, { json }) => {
        for (const name of json.serviceIds) google.apis.add(name);
        return { name: "operations/enable", done: true, response: {} };
      },
    ],
  ];
  const token = join(folder, "token");
  writeFileSync(token, "ya29.token");
  const names = "cloudfunctions run secretmanager iam cloudresourcemanager serviceusage artifactregistry cloudbuild storage";
  const google: Google = {
    env: {
      CLOUDSDK_CONFIG: join(folder, "config"),
      CLOUDSDK_AUTH_ACCESS_TOKEN_FILE: token,
      CLOUDSDK_CORE_DISABLE_PROMPTS: "1",
      CLOUDSDK_CORE_DISABLE_USAGE_REPORTING: "1",
      CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK: "1",
      CLOUDSDK_PROXY_TYPE: "http",
      CLOUDSDK_PROXY_ADDRESS: "127.0.0.1",
      CLOUDSDK_PROXY_PORT: String(port),
      ...Object.fromEntries(
        names.split(" ").map((name) => [`CLOUDSDK_API_ENDPOINT_OVERRIDES_${name.toUpperCase()}`, `http://${name}.google.test/`]),
      ),
    },
    asked: [],
    apis: new Set(["serviceusage.googleapis.com"]),
    accounts: new Set(),
    callers: new Map(),
    secrets: new Map(),
    functions: new Map(),
    services: new Map(),
    sources: new Map(),
    lag: 0,
    broken: new Set(),
    serve: () => Response.json({ status: "ok", version: "0.1.0", store: "ok", bus: "ok" }),
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
  return google;
}

/** What every project has from its beginning. */
const ALWAYS_ON = new Set(["serviceusage", "cloudresourcemanager", "storage"]);

export type Call = { method: string; api: string; path: string; query: Record<string, string>; json: Json; body: Buffer };

async function callOf(req: IncomingMessage): Promise<Call> {
  const url = new URL(String(req.url), `http://${req.headers.host}`);
  const body = await buffer(req);
  const json = String(req.headers["content-type"]).includes("json") && body.length > 0 ? JSON.parse(body.toString()) : null;
  // A region stands before an API's name: us-central1-run.google.test.
  const api = (url.hostname.split(".")[0] ?? "").replace(/^[a-z]+-[a-z]+\d-/, "");
  return { method: String(req.method), api, path: url.pathname, query: Object.fromEntries(url.searchParams), json, body };
}

/** The path of everything in the project, for a pattern. */
export const inProject = (path: string) => new RegExp(`^/v[12]/projects/${PROJECT}${path}$`);
export const locations = () => ({
  locations: [REGION, "europe-west1"].map((it) => ({ name: `projects/${PROJECT}/locations/${it}`, locationId: it })),
});
export const failed = (code: number, status: string, message: string) =>
  Response.json({ error: { code, message, status } }, { status: code });
const apiNamed = (name: string) => ({ name: `projects/123/services/${name}`, config: { name }, state: "ENABLED" });
