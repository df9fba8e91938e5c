import type { IncomingMessage } from "node:http";
import { isIPv6 } from "node:net";

/**
 * The client's address: of the hops that appended to X-Forwarded-For the one that the outermost trusted proxy saw, never
 * the leftmost. IPv4 in IPv6 is folded to IPv4. With fewer hops than trusted the socket's address counts.
 */
export function clientAddress(req: IncomingMessage, trustHops: number): string {
  const socket = fold(req.socket.remoteAddress ?? "unknown");
  if (trustHops === 0) return socket;
  const forwarded = req.headers["x-forwarded-for"];
  const hops = (Array.isArray(forwarded) ? forwarded.join(",") : (forwarded ?? "")).split(",").map((hop) => hop.trim());
  const hop = hops.at(-trustHops);
  return hop && /^[0-9a-fA-F.:]{2,45}$/.test(hop) ? fold(hop) : socket;
}

/** What throttles count by: an IPv4 address, or the /64 that one IPv6 customer has. */
export function throttleAddress(address: string): string {
  if (!isIPv6(address)) return address;
  const [head = "", tail] = address.split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail ? tail.split(":") : [];
  const zeros = tail === undefined ? 0 : 8 - left.length - right.length;
  const groups = [...left, ...Array<string>(zeros).fill("0"), ...right].slice(0, 4);
  return `${groups.map((group) => Number.parseInt(group, 16).toString(16)).join(":")}::/64`;
}

const fold = (address: string) => address.replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, "");
