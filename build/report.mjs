import { PARTS } from "./parts.mjs";

/** What a function's bundle may have, in KiB; a tenth more than it had when this was written. */
const BUDGET = { user: 800, group: 890, chat: 920, proxy: 800, system: 790, mod: 780, img: 890, all: 960 };

/** The sizes of a function's files and the largest packages in its bundle, as a line; and what is wrong with them. */
export function reportOn(name, metafiles) {
  const outputs = metafiles.flatMap(({ outputs }) => Object.entries(outputs)).filter(([path]) => path.endsWith(".cjs"));
  const [[, bundle], ...beside] = outputs;
  const inBundle = packagesIn(bundle);
  const problems = [
    ...outputs.flatMap(([path, output]) =>
      Object.keys(packagesIn(output))
        .filter((it) => PARTS[it] && (!PARTS[it].includes(name) || it === "argon2"))
        .map((it) => `${path} holds ${it}`),
    ),
    ...(kib(bundle.bytes) > BUDGET[name]
      ? [`dist/${name}/bundle.cjs has ${kib(bundle.bytes)} KiB, and its budget is ${BUDGET[name]}`]
      : []),
  ];
  const largest = Object.entries(inBundle).sort(([, one], [, other]) => other - one);
  const line = [
    name.padEnd(8),
    `${kib(bundle.bytes)} of ${BUDGET[name]}`.padStart(11),
    largest
      .slice(0, 6)
      .map(([it, bytes]) => `${it} ${kib(bytes)}`)
      .join(", "),
    `beside it: ${beside.map(([path, { bytes }]) => `${path.split("/").slice(2).join("/")} ${kib(bytes)}`).join(", ")}`,
  ].join("  ");
  return { line, problems };
}

/** Bytes of an output by package; what is ours by its folder. */
function packagesIn({ inputs }) {
  const bytes = {};
  for (const [path, { bytesInOutput }] of Object.entries(inputs)) {
    const name = /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1] ?? path.split("/", 1)[0];
    bytes[name] = (bytes[name] ?? 0) + bytesInOutput;
  }
  return bytes;
}

const kib = (bytes) => Math.round(bytes / 1024);
