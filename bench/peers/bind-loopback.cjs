// Preloaded with `node -r` into a peer that would listen on every address: it listens on 127.0.0.1 instead.
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function listenOnLoopback(first, ...rest) {
  const callback = rest.find((argument) => typeof argument === "function");
  const options = typeof first === "object" && first !== null ? first : { port: Number(first) };
  return listen.call(this, { ...options, host: "127.0.0.1", backlog: 4096 }, callback);
};
