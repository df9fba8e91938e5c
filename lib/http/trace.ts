import type { IncomingHttpHeaders } from "node:http";

/** Where a request stands in a trace that began before us. Ids are lower-case hexadecimal; without `spanId` it has no parent there. */
export type TraceContext = { readonly traceId: string; readonly spanId: string | null; readonly sampled: boolean };

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;
/** Google's older header: the span's id is a decimal number. */
const CLOUD_TRACE = /^([0-9a-f]{32})(?:\/(\d{1,20}))?(?:;o=(\d))?$/i;
const NOTHING = /^0+$/;
const LARGEST_SPAN = 2n ** 64n - 1n;

/** The trace that a request names, in W3C's `traceparent` or in `X-Cloud-Trace-Context`. Null: in neither, or not well-formed. */
export function traceOf({ traceparent, "x-cloud-trace-context": cloud }: IncomingHttpHeaders): TraceContext | null {
  return (typeof traceparent === "string" && fromW3c(traceparent)) || (typeof cloud === "string" && fromCloud(cloud)) || null;
}

/** By W3C Trace Context: version 0 has nothing behind its flags, a later one may, and ff is none. */
function fromW3c(header: string): TraceContext | null {
  const [, version, traceId = "", spanId = "", flags = "", more] = TRACEPARENT.exec(header) ?? [];
  if (version === undefined || version === "ff" || (version === "00" && more !== undefined)) return null;
  if (NOTHING.test(traceId) || NOTHING.test(spanId)) return null;
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

function fromCloud(header: string): TraceContext | null {
  const [, traceId, decimal = "0", option] = CLOUD_TRACE.exec(header) ?? [];
  if (traceId === undefined || NOTHING.test(traceId)) return null;
  const span = BigInt(decimal);
  if (span > LARGEST_SPAN) return null;
  const spanId = span === 0n ? null : span.toString(16).padStart(16, "0");
  return { traceId: traceId.toLowerCase(), spanId, sampled: option === "1" };
}
