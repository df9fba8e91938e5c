import { failed, type Google, inProject, type Json, locations, PROJECT, REGION, type Route } from "./google.ts";

const BUILD = "build-1";

/** What `gcloud run deploy --source` asks: a bucket for the source, a build of it, and a service of what was built. */
export function runRoutes(google: () => Google, origin: string): Route[] {
  const addressOf = (name: string) => `${origin}/run/${name}`;
  const services = `/apis/serving.knative.dev/v1/namespaces/${PROJECT}/services`;
  const service = (posted: Json) => {
    const { name } = posted.metadata;
    const generation = (google().services.get(name)?.metadata.generation ?? 0) + 1;
    const revision = `${name}-0000${generation}-abc`;
    const made = {
      ...posted,
      metadata: {
        ...posted.metadata,
        namespace: "123",
        generation,
        uid: "1",
        resourceVersion: String(generation),
        labels: { ...posted.metadata.labels, "cloud.googleapis.com/location": REGION },
      },
      status: {
        observedGeneration: generation,
        url: addressOf(name),
        address: { url: addressOf(name) },
        latestReadyRevisionName: revision,
        latestCreatedRevisionName: revision,
        traffic: [{ revisionName: revision, percent: 100, latestRevision: true }],
        conditions: ["Ready", "ConfigurationsReady", "RoutesReady"].map((type) => ({ type, status: "True" })),
      },
    };
    google().services.set(name, made);
    return made;
  };
  const image = `${REGION}-docker.pkg.dev/${PROJECT}/cloud-run-source-deploy/proxy-gpt@sha256:${"0".repeat(64)}`;
  const build = { "@type": "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata" };
  const buildAt = {
    name: `projects/123/locations/${REGION}/builds/${BUILD}`,
    id: BUILD,
    projectId: PROJECT,
    logUrl: "http://logs",
  };

  return [
    ["GET", "run", inProject("/locations"), locations],
    ["GET", "run", inProject("/locations/-/services"), () => ({ items: [...google().services.values()] })],
    ["GET", "run", inProject("/locations/[^/]+/services/([^/:]+):getIamPolicy"), () => ({ etag: "AAAA" })],
    [
      "POST",
      "run",
      inProject("/locations/[^/]+/services/([^/:]+):setIamPolicy"),
      ([name = ""], { json }) => {
        const invokers = json.policy.bindings.filter(({ role }: Json) => role === "roles/run.invoker");
        google().callers.set(
          name,
          invokers.flatMap(({ members }: Json) => members),
        );
        return json.policy;
      },
    ],

    ["GET", "iam", /^\/v1\/projects\/-\/serviceAccounts\/(.+)$/, ([email]) => ({ email })],
    ["GET", "artifactregistry", /^\/v1\/(projects\/.+\/repositories\/.+)$/, ([name]) => ({ name, format: "DOCKER" })],
    ["GET", "storage", /^\/storage\/v1\/b$/, (_, { query }) => ({ items: [{ id: query.prefix, name: query.prefix }] })],
    ["GET", "storage", /^\/storage\/v1\/b\/([^/]+)$/, ([name]) => ({ name })],
    [
      "POST",
      "storage",
      /^\/(?:resumable\/)?upload\/storage\/v1\/b\/([^/]+)\/o$/,
      ([bucket], { query, body }) => {
        const archive = lastPart(body);
        google().sources.set("all", archive);
        return { bucket, name: query.name, generation: "1", size: String(archive.length) };
      },
    ],
    [
      "POST",
      "run",
      new RegExp(`^/v2/projects/${PROJECT}/locations/[^/]+/builds:submit$`),
      () => ({ buildOperation: { name: `operations/${BUILD}`, metadata: { ...build, build: buildAt } } }),
    ],
    [
      "GET",
      "cloudbuild",
      new RegExp(`/operations/${BUILD}$`),
      () => ({
        name: `operations/${BUILD}`,
        done: true,
        response: { ...buildAt, status: "SUCCESS", results: { images: [{ name: image, digest: "sha256:0" }] } },
      }),
    ],
    ["POST", "run", new RegExp(`^${services}$`), (_, { json }) => service(json)],
    ["PUT", "run", new RegExp(`^${services}/[^/]+$`), (_, { json }) => service(json)],
    [
      "GET",
      "run",
      new RegExp(`^${services}/([^/]+)$`),
      ([name = ""]) => google().services.get(name) ?? failed(404, "NOT_FOUND", "no such service"),
    ],
    [
      "DELETE",
      "run",
      new RegExp(`^${services}/([^/]+)$`),
      ([name = ""]) => (google().services.delete(name) ? { status: "Success" } : failed(404, "NOT_FOUND", "no such service")),
    ],
  ];
}

/** Of a multipart body: what stands between its last part's headers and the closing boundary. */
function lastPart(body: Buffer): Buffer {
  const boundary = body.subarray(0, body.indexOf("\n")).toString().trim();
  const end = body.lastIndexOf(`${boundary}--`);
  const part = body.subarray(body.lastIndexOf(boundary, end - 1), end);
  return part.subarray(part.indexOf("\n\n") + 2, -1);
}
