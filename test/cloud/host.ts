import { once } from "node:events";
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { pipeline } from "node:stream";

/** What serves a function, by the function's name. Requests go to each of its instances in turn. */
export type Serving = ReadonlyMap<string, readonly Serves[]>;
type Serves = { id: string; url: string };

export type Host = {
  /** The address that all functions share: the first segment of a path is the function's name. */
  url: string;
  /** The address of a function's own, where WebSockets connect. */
  own(name: string): string;
  close(): Promise<void>;
};

/** From where every request comes, as the host sees it. */
export const CLIENT = "198.51.100.7";

/** What a connection is about, and not the request on it. */
const HOP_BY_HOP = ["connection", "keep-alive", "transfer-encoding", "upgrade"];

/**
 * Google's front end: TLS ends here, so it says that there was some, and appends who asked to X-Forwarded-For. It passes a
 * function's name on or takes it away, as `strips` says. `X-Served-By` tells which instance answered.
 */
export async function startHost(serving: Serving, { strips }: { strips: boolean }): Promise<Host> {
  const turns = new Map<string, number>();
  const instanceOf = (name: string) => {
    const instances = serving.get(name) ?? [];
    const turn = turns.get(name) ?? 0;
    turns.set(name, turn + 1);
    return instances[turn % instances.length];
  };
  const host = await serve((target) => {
    const [, name = "", rest = ""] = /^\/([^/?]*)(.*)$/s.exec(target) ?? [];
    const below = rest.startsWith("/") ? rest : `/${rest}`;
    return { instance: instanceOf(name), target: strips ? below : target };
  });
  const owns = new Map<string, Server>();
  for (const name of serving.keys()) owns.set(name, await serve((target) => ({ instance: instanceOf(name), target })));
  return {
    url: urlOf(host),
    own: (name) => urlOf(owns.get(name) as Server),
    close: async () => {
      for (const server of [host, ...owns.values()]) {
        const closed = once(server, "close");
        server.close();
        server.closeAllConnections();
        await closed;
      }
    },
  };
}

type Route = (target: string) => { instance: Serves | undefined; target: string };

async function serve(route: Route): Promise<Server> {
  const server = createServer((req, res) => {
    const { instance, target } = route(req.url ?? "/");
    if (instance) forward(req, res, instance, target);
    else res.writeHead(404, { "content-type": "text/html" }).end("<h1>no such function</h1>");
  });
  server.on("upgrade", (req: IncomingMessage, socket: Socket, head: Buffer) => {
    const { instance, target } = route(req.url ?? "/");
    if (instance) tunnel(req, socket, head, instance.url, target);
    else socket.destroy();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

const urlOf = (server: Server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

const forwarded = ({ headers }: IncomingMessage) => ({
  "x-forwarded-for": [headers["x-forwarded-for"], CLIENT].filter(Boolean).join(", "),
  "x-forwarded-proto": "https",
});

/** Both ways as it comes; who breaks off, breaks off the other side. */
function forward(req: IncomingMessage, res: ServerResponse, { id, url }: { id: string; url: string }, path: string): void {
  const { hostname, port } = new URL(url);
  const headers = { ...endToEnd(req), ...forwarded(req) };
  const onward = request({ hostname, port, path, method: req.method, headers, agent: false });
  onward.on("response", (answer) => {
    res.writeHead(answer.statusCode ?? 0, { ...endToEnd(answer), "x-served-by": id }).flushHeaders();
    pipeline(answer, res, () => {});
  });
  onward.on("error", () => (res.headersSent ? res.destroy() : res.writeHead(502).end()));
  res.on("close", () => onward.destroy());
  req.on("error", () => {}).pipe(onward);
}

function endToEnd({ headersDistinct }: IncomingMessage): Record<string, string | string[]> {
  const headers = Object.entries(headersDistinct).filter(([name]) => !HOP_BY_HOP.includes(name));
  return Object.fromEntries(headers.map(([name, values = []]) => [name, values.length === 1 ? String(values[0]) : values]));
}

function tunnel(req: IncomingMessage, socket: Socket, head: Buffer, url: string, target: string): void {
  const { hostname, port } = new URL(url);
  const onward = connect(Number(port), hostname);
  const headers = Object.entries({ ...req.headersDistinct, ...forwarded(req) }).flatMap(([name, values]) =>
    [values ?? []].flat().map((value) => `${name}: ${value}\r\n`),
  );
  onward.write(`GET ${target} HTTP/1.1\r\n${headers.join("")}\r\n`);
  onward.write(head);
  pipeline(socket, onward, socket, () => {});
}
