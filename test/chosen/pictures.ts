/** The address of an image that nobody fetches. */
export const ADDRESS = "https://example.com/a.png";

/** Pictures of one pixel. */
export const PIXELS = {
  png: "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
  jpeg: "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////////////wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxA=",
  gif: "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7",
  webp: "UklGRiQAAABXRUJQVlA4IBgAAAAwAQCdASoBAAEAAwA0JaQAA3AA/vuUAAA=",
};
export const inline = (type: string, base64: string) => `data:image/${type};base64,${base64}`;
export const PNG = inline("png", PIXELS.png);
/** A PNG by its first bytes, of this size, and unlike one that is marked otherwise. */
export function pngOf(bytes: number, mark = 0): string {
  const head = Buffer.from(PIXELS.png, "base64").subarray(0, 8);
  return inline("png", Buffer.concat([head, Buffer.alloc(bytes - head.length, mark)]).toString("base64"));
}

/** The picture of one type under the name of another. */
const misnamed = Object.keys(PIXELS).flatMap((named) =>
  Object.entries(PIXELS)
    .filter(([type]) => type !== named)
    .map(([type, base64]): [string, string] => [`a ${type} called ${named}`, inline(named, base64)]),
);
/** What is no address of an image. */
export const notImages: [what: string, url: unknown][] = [
  ["no address", undefined],
  ["a number", 5],
  ["a list", [ADDRESS]],
  ["an empty address", ""],
  ["http:", "http://example.com/a.png"],
  ["ftp:", "ftp://example.com/a.png"],
  ["file:", "file:///etc/passwd"],
  ["javascript:", "javascript:alert(1)"],
  ["blob:", "blob:https://example.com/a"],
  ["a path", "/a.png"],
  ["a relative address", "a.png"],
  ["an address without its scheme", "//example.com/a.png"],
  ["https: without a host", "https://"],
  ["https: with an empty host", "https:///a.png"],
  ["https: without slashes", "https:example.com/a.png"],
  ["https: with one slash", "https:/example.com/a.png"],
  ["https: with a port that is none", "https://example.com:99999/a.png"],
  ["a user", "https://user@example.com/"],
  ["a user and a password", "https://user:pw@example.com/"],
  ["a password", "https://:pw@example.com/"],
  ["a user without a name", "https://@example.com/"],
  ["a user without a name or a password", "https://:@example.com/"],
  ["a space", "https://example.com/a b.png"],
  ["a space before it", ` ${ADDRESS}`],
  ["a space behind it", `${ADDRESS} `],
  ["a tab", "https://example.com/\ta.png"],
  ["a line break", "https://example.com/\na.png"],
  ["a line break in its scheme", "ht\ntps://example.com/a.png"],
  ["a line break at its end", `${ADDRESS}\n`],
  ["a backslash", "https://example.com\\@evil.example/a.png"],
  ["backslashes for slashes", "https:\\\\example.com\\a.png"],
  ["a host that is not ASCII", "https://exämple.com/a.png"],
  ["a path that is not ASCII", "https://example.com/ä.png"],
  ["a space that is not ASCII", "https://example.com/\u00a0a.png"],
  ["DEL", "https://example.com/\u007fa.png"],
  ["8,193 characters", `https://example.com/${"a".repeat(8_193 - 20)}`],
  ["an SVG", `data:image/svg+xml;base64,${btoa("<svg/>")}`],
  ["a PDF", `data:application/pdf;base64,${btoa("%PDF-1.7")}`],
  ["HTML", `data:text/html;base64,${btoa("<p>")}`],
  ["text", `data:text/plain;base64,${btoa("hello")}`],
  ["data: without a type", `data:;base64,${PIXELS.png}`],
  ["data: with another parameter", `data:image/png;charset=utf-8;base64,${PIXELS.png}`],
  ["data: without base64", "data:image/png,%89PNG%0D%0A%1A%0A"],
  ["DATA:", `DATA:${PNG.slice(5)}`],
  ["data: after a space", ` ${PNG}`],
  ["a type in capitals", inline("PNG", PIXELS.png)],
  ["image/jpg", inline("jpg", PIXELS.jpeg)],
  ["a picture of no bytes", inline("png", "")],
  ["base64 without its padding", PNG.replace(/=+$/, "")],
  ["base64 with more padding", `${PNG}=`],
  ["base64 with a space in it", PNG.replace("AAAA", "AA AA")],
  ["base64 with a line break behind it", `${PNG}\n`],
  ["base64 in the letters of addresses", inline("jpeg", PIXELS.jpeg.replaceAll("/", "_"))],
  ["base64 with bits left over", PNG.replace("gg==", "gh==")],
  ["base64 with something behind it", `${PNG}#fragment`],
  ...misnamed,
];
