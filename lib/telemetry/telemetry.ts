import type { Ledger } from "../audit/ledger.ts";
import type { Bus } from "../bus/bus.ts";
import type { Seen } from "../http/request-log.ts";
import type { Upstream } from "../llm/upstream.ts";
import type { Store } from "../store/store.ts";

/** Spans and metrics of an instance. Nothing here waits for the collector, and no request fails because of it. */
export type Telemetry = {
  /** Begins the span of a request; upstream calls that are made in its flow from here on are its children. */
  begin(id: string, seen: Seen): RequestSpan;
  /** Reports how many streams of ours are open, whenever metrics are read. */
  countStreams(size: () => number): void;
  /** The same, with the tokens of every outcome counted. */
  watchLedger(ledger: Ledger): Ledger;
  /** The same, with a span for every call. */
  watchUpstream(upstream: Upstream): Upstream;
  /** The same, with their failures counted. */
  watchBus(bus: Bus): Bus;
  watchStore(store: Store): Store;
  /** Sends what is there and stops, within the deadline. */
  close(deadlineMs: number): Promise<void>;
};

export type RequestSpan = {
  end(ended: {
    endpoint: string | undefined;
    /** The path of its route, as it is declared. */
    route: string | undefined;
    userId: string | null;
    status: number;
    code: string | null;
  }): void;
};
