import type { UpstreamRoute } from "./upstream.ts";

/** The data plane's general release that an address without `api-version` is asked with. */
const API_VERSION = "2024-10-21";
const HOSTS = [".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"];
/** Operations that Azure serves below a deployment; the others (models, files, batches, …) belong to the resource. */
const OF_DEPLOYMENT = /^(completions|chat\/completions|embeddings|images|audio)(\/|$)/;

/** An Azure address: by its host, or by a path that names a deployment. */
export const isAzure = (url: URL): boolean =>
  HOSTS.some((host) => url.hostname.endsWith(host)) || /\/openai\/deployments\/[^/]+/.test(url.pathname);

/**
 * Azure's forms of an address: a resource (its `/openai/v1`), a deployment, or a whole operation of either, each with or
 * without `api-version`. The key travels as `api-key`.
 */
export function azureRoute(url: URL): UpstreamRoute {
  const [, prefix = "", deployment] =
    /^(.*?)(?:\/openai\/deployments\/([^/]+).*|\/openai(?:\/.*)?|\/*)$/.exec(url.pathname) ?? [];
  const version = url.searchParams.get("api-version");
  const target = (v1Target: string): string => {
    const operation = v1Target.slice("/v1/".length);
    if (deployment === undefined) return withVersion(`${prefix}/openai/v1/${operation}`, version);
    const owner = OF_DEPLOYMENT.test(operation.split("?", 1)[0] ?? "") ? `/openai/deployments/${deployment}/` : "/openai/";
    return withVersion(`${prefix}${owner}${operation}`, version ?? API_VERSION);
  };
  return { origin: url.origin, target, keyHeader: (key) => ["api-key", key] };
}

/** A caller's own `api-version` stays. */
function withVersion(target: string, version: string | null): string {
  if (version === null || /[?&]api-version=/.test(target)) return target;
  return `${target}${target.includes("?") ? "&" : "?"}api-version=${encodeURIComponent(version)}`;
}
