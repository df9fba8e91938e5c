import { signedIn } from "../../lib/access.ts";
import { relay } from "../../lib/http/endpoint.ts";
import { relayUpgrade } from "../../lib/proxy/tunnel.ts";
import { relayRequest } from "../../lib/proxy/v1.ts";

export const v1 = relay({
  name: "proxy.v1",
  summary: "OpenAI's API, relayed as it is with the shared key",
  prefix: "/v1/",
  access: signedIn,
  request: relayRequest,
  upgrade: relayUpgrade,
});
