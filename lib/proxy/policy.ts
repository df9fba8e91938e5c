import { ApiError } from "../http/error.ts";

export type ProxyPolicy = { policy: "open" | "strict"; deny: readonly string[] };

/** Whatever begins like this manages the shared account. */
const ORGANIZATION = "/v1/organization";
/** What would hand out credentials of the shared account. */
const NEVER = [
  "/v1/projects",
  "/v1/realtime/client_secrets",
  "/v1/realtime/sessions",
  "/v1/realtime/transcription_sessions",
  "/v1/chatkit/sessions",
  "/v1/api_keys",
  "/v1/dashboard",
];
/** Inference that leaves nothing behind at the upstream that another member could read. */
const STATELESS: readonly (readonly [method: string, path: string])[] = [
  ["GET", "/v1/models"],
  ["POST", "/v1/chat/completions"],
  ["POST", "/v1/completions"],
  ["POST", "/v1/embeddings"],
  ["POST", "/v1/moderations"],
  ["POST", "/v1/images/generations"],
  ["POST", "/v1/images/edits"],
  ["POST", "/v1/images/variations"],
  ["POST", "/v1/audio/speech"],
  ["POST", "/v1/audio/transcriptions"],
  ["POST", "/v1/audio/translations"],
  ["POST", "/v1/responses"],
  ["GET", "/v1/realtime"],
];

/** Answers a check that throws `path_denied` for what this instance does not relay. Paths are compared decoded, in small letters. */
export function createPolicy({ policy, deny }: ProxyPolicy): (method: string, target: string) => void {
  const denied = [...NEVER, ...deny.map(canonical)];
  return (method, target) => {
    const path = canonical(target);
    if (path.startsWith(ORGANIZATION) || denied.some((prefix) => isBelow(path, prefix))) throw new ApiError("path_denied");
    if (policy === "open") return;
    const listed = STATELESS.some(
      ([verb, prefix]) => (verb === method || (verb === "GET" && method === "HEAD")) && isServed(path, prefix),
    );
    if (!listed)
      throw new ApiError("path_denied", { message: "PROXY_POLICY is strict: only stateless inference is served here." });
  };
}

const isBelow = (path: string, prefix: string) =>
  path.startsWith(prefix) && (path.length === prefix.length || path[prefix.length] === "/" || prefix === "/");
/** Only models have something below them that strict serves: `/v1/models/ID`. */
const isServed = (path: string, prefix: string) =>
  path === prefix || (prefix === "/v1/models" && /^\/v1\/models\/[^/]+$/.test(path));

/** A path as the laxest upstream could read it: decoded, one slash for several, none at the end, small letters. */
function canonical(target: string): string {
  let path = target.split("?", 1)[0] as string;
  for (let i = 0; i < 4 && path.includes("%"); i++)
    path = path.replace(/%([0-9a-fA-F]{2})/g, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16)));
  return path
    .replace(/\/{2,}/g, "/")
    .replace(/(?<=.)\/$/, "")
    .toLowerCase();
}
