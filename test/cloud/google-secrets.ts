import { failed, type Google, inProject, type Json, PROJECT, type Route } from "./google.ts";

/** Service accounts, secrets, and which of the first may read which of the second. */
export function secretRoutes(google: () => Google): Route[] {
  let count = 0;
  const secret = (name: string) => google().secrets.get(name);
  const secretName = (name: string) => `projects/123/secrets/${name}`;
  const exists = (member: string) =>
    !member.startsWith("serviceAccount:proxy-gpt-") || google().accounts.has(member.slice("serviceAccount:".length));

  return [
    ["GET", "iam", inProject("/serviceAccounts"), () => ({ accounts: [...google().accounts].map((email) => ({ email })) })],
    [
      "POST",
      "iam",
      inProject("/serviceAccounts"),
      (_, { json }) => {
        const email = `${json.accountId}@${PROJECT}.iam.gserviceaccount.com`;
        google().accounts.add(email);
        return { name: `projects/${PROJECT}/serviceAccounts/${email}`, email };
      },
    ],
    [
      "DELETE",
      "iam",
      /^\/v1\/projects\/[^/]+\/serviceAccounts\/(.+)$/,
      ([email = ""]) => (google().accounts.delete(email) ? {} : failed(404, "NOT_FOUND", "no such account")),
    ],

    [
      "GET",
      "secretmanager",
      inProject("/secrets"),
      () => ({ secrets: [...google().secrets].map(([name, { labels }]) => ({ name: secretName(name), labels })) }),
    ],
    [
      "POST",
      "secretmanager",
      inProject("/secrets"),
      (_, { query, json }) => {
        const name = String(query.secretId);
        google().secrets.set(name, { labels: json.labels, versions: [], policy: { etag: "AAAA", bindings: [] } });
        return { name: secretName(name) };
      },
    ],
    [
      "POST",
      "secretmanager",
      inProject("/secrets/([^/:]+):addVersion"),
      ([name = ""], { json }) => {
        const versions = secret(name)?.versions ?? [];
        versions.push(Buffer.from(json.payload.data, "base64").toString());
        return {
          name: `${secretName(name)}/versions/${versions.length}`,
          state: "ENABLED",
          clientSpecifiedPayloadChecksum: true,
        };
      },
    ],
    [
      "GET",
      "secretmanager",
      inProject("/secrets/([^/:]+)/versions/latest:access"),
      ([name = ""]) => {
        const versions = secret(name)?.versions ?? [];
        if (versions.length === 0) return failed(404, "NOT_FOUND", "there is no version");
        const data = Buffer.from(versions.at(-1) ?? "").toString("base64");
        return { name: `${secretName(name)}/versions/${versions.length}`, payload: { data } };
      },
    ],
    ["GET", "secretmanager", inProject("/secrets/([^/:]+)/versions"), () => ({ versions: [], totalSize: 0 })],
    ["GET", "secretmanager", inProject("/secrets/([^/:]+):getIamPolicy"), ([name = ""]) => secret(name)?.policy ?? {}],
    [
      "POST",
      "secretmanager",
      inProject("/secrets/([^/:]+):setIamPolicy"),
      ([name = ""], { json }) => {
        const known = secret(name);
        const members: string[] = json.policy.bindings.flatMap((binding: Json) => binding.members);
        const stranger = google().lag > 0 && google().lag-- ? members[0] : members.find((it) => !exists(it));
        if (stranger) return failed(400, "INVALID_ARGUMENT", `Service account ${stranger} does not exist.`);
        if (known) known.policy = { ...json.policy, etag: Buffer.from(`etag ${++count}`).toString("base64") };
        return known?.policy ?? failed(404, "NOT_FOUND", "no such secret");
      },
    ],
    [
      "DELETE",
      "secretmanager",
      inProject("/secrets/([^/:]+)"),
      ([name = ""]) => (google().secrets.delete(name) ? {} : failed(404, "NOT_FOUND", "no such secret")),
    ],
  ];
}
