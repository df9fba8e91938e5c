/** As `gcloud secrets get-iam-policy` prints it. */
export type Policy = { etag?: string; version?: number; bindings?: Binding[] };
type Binding = { role: string; members: string[]; condition?: unknown };

const ROLE = "roles/secretmanager.secretAccessor";

/**
 * The policy in which of `accounts` those that are `allowed` may read the secret, and the others may not. Whoever else may
 * is left alone. `null` where it says so already.
 */
export function policyFor(policy: Policy, accounts: readonly string[], allowed: readonly string[]): Policy | null {
  const ours = new Set(accounts.map(member));
  const bindings = policy.bindings ?? [];
  const readers = bindings.find(({ role, condition }) => role === ROLE && condition === undefined)?.members ?? [];
  const wanted = [...readers.filter((it) => !ours.has(it)), ...allowed.map(member)];
  const others = bindings
    .filter((it) => it.role !== ROLE || it.condition !== undefined)
    .map((it) => ({ ...it, members: it.members.filter((one) => it.role !== ROLE || !ours.has(one)) }));
  const kept = [...others, { role: ROLE, members: wanted }].filter(({ members }) => members.length > 0);
  return shape(kept) === shape(bindings) ? null : { ...policy, bindings: kept };
}

const member = (account: string) => `serviceAccount:${account}`;
const shape = (bindings: readonly Binding[]) =>
  JSON.stringify(bindings.map(({ role, members, condition }) => [role, [...members].sort(), condition]).sort());
