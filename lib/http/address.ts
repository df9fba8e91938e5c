import type { IncomingMessage } from "node:http";
import { isIP, isIPv6 } from "node:net";

/**
 * The client's address: of the hops that appended to X-Forwarded-For the one that the outermost trusted proxy saw, never
 * the leftmost. IPv4 in IPv6 is folded to IPv4. With fewer hops than trusted the socket's address counts.
 */
export function clientAddress(req: IncomingMessage, trustHops: number): string {
  const socket = fold(req.socket.remoteAddress ?? "unknown");
  if (trustHops === 0) return socket;
  const forwarded = req.headers["x-forwarded-for"];
  const hops = (Array.isArray(forwarded) ? forwarded.join(",") : (forwarded ?? "")).split(",");
  // Some proxies append the port, which is another one for each connection.
  const hop = (hops.at(-trustHops) ?? "").trim().replace(/^\[(.+)\](?::\d+)?$|^([\d.]+):\d+$/, "$1$2");
  return isIP(hop) ? fold(hop) : socket;
}

/** What throttles count by: an IPv4 address, or the /64 that one IPv6 customer has. */
export function throttleAddress(address: string): string {
  if (!isIPv6(address)) return address;
  const network = groupsOf(address).slice(0, 4);
  return `${network.map((group) => group.toString(16)).join(":")}::/64`;
}

/** An IPv4 address in IPv6 (`::ffff:1.2.3.4`, in any spelling) as IPv4; any other as it is. */
function fold(address: string): string {
  if (!address.includes(":")) return address;
  const [a, b, c, d, e, f, high = 0, low = 0] = groupsOf(address);
  if (a || b || c || d || e || f !== 0xffff) return address;
  return [high >> 8, high & 255, low >> 8, low & 255].join(".");
}

/** The eight groups of an IPv6 address. */
function groupsOf(address: string): number[] {
  const plain = address.replace(/%.*$/, "").replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, ...bytes: string[]) => {
    const [a = 0, b = 0, c = 0, d = 0] = bytes.map(Number);
    return `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
  });
  const [left = [], right] = plain.split("::").map((half) => (half === "" ? [] : half.split(":")));
  const zeros = right ? Array<string>(8 - left.length - right.length).fill("0") : [];
  return [...left, ...zeros, ...(right ?? [])].map((group) => Number.parseInt(group, 16));
}
