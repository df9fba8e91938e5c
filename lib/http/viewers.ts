import type { SocketViewer } from "./viewer.ts";

export type StreamLimits = {
  /** How often each viewer hears that the stream is alive. */
  heartbeatMs: number;
  /** How long a viewer may read nothing of what waits for them. */
  stalledMs: number;
  /** A stream ends itself, with the advice to come again, after this time and this much. */
  rotateMs: number;
  rotateBytes: number;
};

/** The platform cuts a request after 60 minutes, and a streamed answer after 10 MB. */
const LIMITS: StreamLimits = { heartbeatMs: 15_000, stalledMs: 60_000, rotateMs: 3_000_000, rotateBytes: 9_000_000 };

/** Everyone who reads a stream of one listener. One timer serves them all, and there is none while there is nobody. */
export type Viewers = {
  readonly size: number;
  /** Answers what removes them. */
  add(viewer: SocketViewer): () => void;
  /** Sends everyone away, and whoever comes later. */
  rotate(): void;
};

export function createViewers(limits: Partial<StreamLimits> = {}): Viewers {
  const { heartbeatMs, stalledMs, rotateMs, rotateBytes } = { ...LIMITS, ...limits };
  const viewers = new Set<SocketViewer>();
  let timer: NodeJS.Timeout | undefined;
  let stopping = false;

  const round = () => {
    const now = performance.now();
    for (const viewer of viewers) {
      if (viewer.fullSinceMs !== null) {
        if (now - viewer.fullSinceMs >= stalledMs) viewer.abandon("stalled");
      } else if (viewer.rotates && now - viewer.startedMs >= rotateMs) viewer.rotate();
      else if (!viewer.closed) viewer.beat();
    }
  };
  return {
    get size() {
      return viewers.size;
    },
    add: (viewer) => {
      viewers.add(viewer);
      viewer.allowance = rotateBytes;
      timer ??= setInterval(round, heartbeatMs).unref();
      if (stopping) viewer.rotate();
      return () => {
        viewers.delete(viewer);
        if (viewers.size > 0) return;
        clearInterval(timer);
        timer = undefined;
      };
    },
    rotate: () => {
      stopping = true;
      for (const viewer of viewers) viewer.rotate();
    },
  };
}
