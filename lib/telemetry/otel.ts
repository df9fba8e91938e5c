import { AsyncLocalStorage } from "node:async_hooks";
import { type Attributes, type Context, ROOT_CONTEXT, SpanKind, SpanStatusCode, TraceFlags, trace } from "@opentelemetry/api";
import { OTLPMetricExporter } from "@opentelemetry/exporter-metrics-otlp-http";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { MeterProvider, PeriodicExportingMetricReader } from "@opentelemetry/sdk-metrics";
import { BatchSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace";
import type { Seen } from "../http/request-log.ts";
import type { TraceContext } from "../http/trace.ts";
import type { Log } from "../log.ts";
import { version } from "../version.ts";
import { tellBusFailures, tellStoreFailures } from "./failures.ts";
import type { Telemetry } from "./telemetry.ts";
import { type BeginCall, withSpans } from "./upstream-spans.ts";

export type OtelOptions = {
  /** The collector's base address, as OTEL_EXPORTER_OTLP_ENDPOINT has it. */
  endpoint: string;
  service: string;
  /** Tells this instance's metrics from another's. */
  instance: string;
  /** Where calls to the model go. */
  upstream: URL;
  log: Log;
  /** How often spans and metrics are sent, unless they are sent at their own paces. */
  everyMs?: number;
};

const SPANS_EVERY_MS = 5_000;
const METRICS_EVERY_MS = 30_000;
/** How long the collector may take. */
const EXPORT_MS = 5_000;
/** The buckets that the HTTP conventions advise, in seconds, and what a model's reply and a stream take beyond them. */
const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120, 300, 900, 3_600];
/** Any other word as a method is somebody's invention, and would be a new series each time. */
const METHODS = new Set(["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"]);

/**
 * OpenTelemetry by its own libraries, to a collector that speaks OTLP over HTTP. Nothing is registered globally. Attributes are
 * those of the semantic conventions for HTTP; ours begin with `proxy_gpt`.
 */
export function openOtel({ endpoint, service, instance, upstream, log, everyMs }: OtelOptions): Telemetry {
  const tell = exportTeller(log);
  const base = endpoint.replace(/\/+$/, "");
  const attributes = { "service.name": service, "service.version": version, "service.instance.id": instance };
  const resource = resourceFromAttributes(attributes);
  const spans = new BatchSpanProcessor({
    exporter: tell(new OTLPTraceExporter({ url: `${base}/v1/traces`, timeoutMillis: EXPORT_MS })),
    scheduledDelayMillis: everyMs ?? SPANS_EVERY_MS,
    exportTimeoutMillis: EXPORT_MS,
  });
  const tracers = new TracerProvider({ resource, spanProcessors: [spans] });
  const metricsEveryMs = everyMs ?? METRICS_EVERY_MS;
  const reader = new PeriodicExportingMetricReader({
    exporter: tell(new OTLPMetricExporter({ url: `${base}/v1/metrics`, timeoutMillis: EXPORT_MS })),
    exportIntervalMillis: metricsEveryMs,
    exportTimeoutMillis: Math.min(EXPORT_MS, metricsEveryMs),
  });
  const meters = new MeterProvider({ resource, readers: [reader] });
  const tracer = tracers.getTracer("proxy-gpt", version);
  const meter = meters.getMeter("proxy-gpt", version);
  const duration = meter.createHistogram("http.server.request.duration", {
    description: "Requests, by how long they took; a stream lasts until it is over.",
    unit: "s",
    advice: { explicitBucketBoundaries: SECONDS },
  });
  const tokens = meter.createCounter("proxy_gpt.tokens", { description: "Tokens that were used, by model.", unit: "{token}" });
  const failures = meter.createCounter("proxy_gpt.failures", {
    description: "What the bus or the store did not do.",
    unit: "{failure}",
  });
  const streams = meter.createObservableUpDownCounter("proxy_gpt.streams", {
    description: "Streams of ours that are open.",
    unit: "{stream}",
  });
  /** The span of the request in whose flow something happens. */
  const flow = new AsyncLocalStorage<Context>();

  const begin: Telemetry["begin"] = (id, seen) => {
    const startedMs = performance.now();
    const method = METHODS.has(seen.method) ? seen.method : "_OTHER";
    const options = { kind: SpanKind.SERVER, attributes: requestAttributes(id, seen, method) };
    const context = parentOf(seen.trace);
    const span = tracer.startSpan(method, options, context);
    flow.enterWith(trace.setSpan(context, span));
    return {
      end: ({ endpoint, route, userId, status, code }) => {
        const errorType = code ?? (status >= 500 ? String(status) : undefined);
        const known: Attributes = {
          "http.response.status_code": status,
          ...(route !== undefined && { "http.route": route }),
          ...(errorType !== undefined && { "error.type": errorType }),
        };
        if (endpoint !== undefined) span.updateName(endpoint);
        span.setAttributes({ ...known, ...(userId !== null && { "user.id": userId }) });
        if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
        span.end();
        duration.record((performance.now() - startedMs) / 1000, {
          ...known,
          "http.request.method": method,
          "url.scheme": schemeOf(seen),
          ...(endpoint !== undefined && { "proxy_gpt.endpoint": endpoint }),
        });
      },
    };
  };
  const beginCall: BeginCall = (method, path) => {
    const attributes = {
      "http.request.method": method,
      "server.address": upstream.hostname,
      "server.port": Number(upstream.port) || (upstream.protocol === "https:" ? 443 : 80),
      "url.path": path,
    };
    const span = tracer.startSpan(method, { kind: SpanKind.CLIENT, attributes }, flow.getStore() ?? ROOT_CONTEXT);
    const fail = (errorType: string) => {
      span.setAttribute("error.type", errorType);
      span.setStatus({ code: SpanStatusCode.ERROR });
    };
    return {
      answered: (status) => {
        span.setAttribute("http.response.status_code", status);
        if (status >= 400) fail(String(status));
      },
      end: (errorType) => {
        if (!span.isRecording()) return;
        if (errorType !== undefined) fail(errorType);
        span.end();
      },
    };
  };

  return {
    begin,
    countStreams: (size) => streams.addCallback((result) => result.observe(size())),
    watchLedger: (ledger) => ({
      ...ledger,
      close: (id, outcome) => {
        const { model, usage } = outcome;
        const count = (type: "input" | "output", n: number) =>
          tokens.add(n, { "gen_ai.request.model": model ?? "unknown", "gen_ai.token.type": type });
        if (usage) {
          count("input", usage.promptTokens);
          count("output", usage.completionTokens);
        }
        return ledger.close(id, outcome);
      },
    }),
    watchUpstream: (it) => withSpans(it, beginCall),
    watchBus: (bus) => tellBusFailures(bus, (operation) => failures.add(1, failureOf("bus", operation))),
    watchStore: (store) => tellStoreFailures(store, (operation) => failures.add(1, failureOf("store", operation))),
    close: async (deadlineMs) => {
      const stopped = Promise.allSettled([tracers.shutdown(), meters.shutdown({ timeoutMillis: deadlineMs })]);
      await Promise.race([stopped, new Promise((resolve) => setTimeout(resolve, deadlineMs).unref())]);
    },
  };
}

const failureOf = (part: "bus" | "store", operation: string): Attributes => ({
  "proxy_gpt.part": part,
  "proxy_gpt.operation": operation,
});

const schemeOf = ({ https }: Seen) => (https ? "https" : "http");

function requestAttributes(id: string, seen: Seen, method: string): Attributes {
  return {
    "proxy_gpt.request_id": id,
    "http.request.method": method,
    ...(method === "_OTHER" && { "http.request.method_original": seen.method }),
    "url.path": seen.path,
    ...(seen.query !== "" && { "url.query": seen.query }),
    "url.scheme": schemeOf(seen),
    "client.address": seen.address,
    "network.protocol.version": seen.httpVersion,
    ...(seen.userAgent !== undefined && { "user_agent.original": seen.userAgent }),
  };
}

/** A trace that names no span has no place for a child. */
function parentOf(named: TraceContext | null): Context {
  if (!named?.spanId) return ROOT_CONTEXT;
  const { traceId, spanId, sampled } = named;
  const traceFlags = sampled ? TraceFlags.SAMPLED : TraceFlags.NONE;
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags, isRemote: true });
}

type Exporter<T> = { export(items: T, done: (result: { code: number; error?: Error }) => void): void };

/** Tells when exports begin to fail, and no more until one has gone through: a collector that is down should not fill the log. */
function exportTeller(log: Log) {
  let failing = false;
  return <T, E extends Exporter<T>>(exporter: E): E => {
    const send = exporter.export.bind(exporter);
    exporter.export = (items: T, done) =>
      send(items, (result) => {
        const failed = result.code !== 0;
        if (failed && !failing) log({ severity: "WARNING", message: "telemetry not sent", error: result.error?.name });
        failing = failed;
        done(result);
      });
    return exporter;
  };
}
