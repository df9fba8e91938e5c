/** At most `bytes` of a text as UTF-8, in a form that every store takes: no NUL, no half of a surrogate pair. */
export function clipText(text: string, bytes: number): string {
  const short = text.length * 3 <= bytes || Buffer.byteLength(text) <= bytes ? text : clipBytes(Buffer.from(text), bytes);
  const whole = short.isWellFormed() ? short : short.toWellFormed();
  return whole.includes("\0") ? whole.replaceAll("\0", "\uFFFD") : whole;
}

/** The same of bytes that are taken for UTF-8; a character that is cut in two is left out. */
export function clipBytes(buffer: Buffer, bytes: number): string {
  let end = Math.min(buffer.length, bytes);
  if (end < buffer.length) while (end > 0 && ((buffer[end] as number) & 0xc0) === 0x80) end--;
  return buffer.toString("utf8", 0, end);
}
