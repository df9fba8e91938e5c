import { failed, type Google, inProject, type Json, locations, PROJECT, REGION, type Route } from "./google.ts";

/** Cloud Functions: every operation is done at once. `uploads`: what was uploaded, by the name of its object. */
export function functionRoutes(google: () => Google, uploads: Map<string, Buffer>, origin: string): Route[] {
  let count = 0;
  const functionAt = (location: string, name: string) => {
    const found = google().functions.get(name);
    return found?.name.includes(`/locations/${location}/`) ? found : undefined;
  };
  const deployed = (name: string, posted: Json) => {
    const { bucket, object } = posted.buildConfig.source.storageSource;
    google().sources.set(name, uploads.get(object) ?? Buffer.alloc(0));
    if (google().broken.has(name)) return operation({ error: { code: 3, message: "Build failed with status: FAILURE." } });
    const revision = `${name}-${String(++count).padStart(5, "0")}-abc`;
    const serviceConfig = {
      ...posted.serviceConfig,
      uri: `${origin}/run/${name}`,
      revision,
      service: posted.name.replace("/functions/", "/services/"),
    };
    const made = { ...posted, state: "ACTIVE", environment: "GEN_2", url: `${origin}/${name}`, serviceConfig };
    made.buildConfig.source = { storageSource: { bucket, object, generation: "1" } };
    google().functions.set(name, made);
    return operation({ response: { "@type": "type.googleapis.com/google().cloud.functions.v2.Function", ...made } });
  };
  const operations = new Map<string, Json>();
  const operation = (result: object, location = `projects/${PROJECT}/locations/${REGION}`) => {
    const name = `${location}/operations/${++count}`;
    const metadata = { "@type": "type.googleapis.com/google().cloud.functions.v2.OperationMetadata", stages: [] };
    operations.set(name, { name, done: true, metadata, ...result });
    return operations.get(name);
  };

  return [
    ["GET", "cloudfunctions", inProject("/locations"), locations],
    [
      "GET",
      "cloudfunctions",
      inProject("/locations/[^/]+/runtimes"),
      () => ({ runtimes: ["nodejs22", "nodejs24"].map(runtime) }),
    ],
    ["GET", "cloudfunctions", inProject("/locations/[^/]+/functions"), () => ({ functions: [...google().functions.values()] })],
    [
      "POST",
      "cloudfunctions",
      inProject("/locations/([^/]+)/functions:generateUploadUrl"),
      () => {
        const object = `source-${++count}.zip`;
        return { uploadUrl: `${origin}/upload/${object}`, storageSource: { bucket: "sources", object } };
      },
    ],
    [
      "GET",
      "cloudfunctions",
      inProject("/locations/([^/]+)/functions/([^/:]+)"),
      ([location = "", name = ""]) => functionAt(location, name) ?? failed(404, "NOT_FOUND", `${name} was not found`),
    ],
    [
      "POST",
      "cloudfunctions",
      inProject("/locations/([^/]+)/functions"),
      (_, { query, json }) => deployed(String(query.functionId), json),
    ],
    [
      "PATCH",
      "cloudfunctions",
      inProject("/locations/([^/]+)/functions/([^/:]+)"),
      ([, name = ""], { json }) => deployed(name, { ...google().functions.get(name), ...json }),
    ],
    [
      "DELETE",
      "cloudfunctions",
      inProject("/locations/([^/]+)/functions/([^/:]+)"),
      ([, name = ""]) => {
        google().functions.delete(name);
        return operation({ response: {} });
      },
    ],
    ["GET", "cloudfunctions", /^\/v2\/(projects\/.+\/operations\/.+)$/, ([name = ""]) => operations.get(name) ?? {}],
  ];
}

const runtime = (name: string) => ({ name, environment: "GEN_2", stage: "GA" });
