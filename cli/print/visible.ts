/** What a terminal would obey or hide, but for the two joiners that some scripts and emoji are written with. */
const HIDDEN = /(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu;
const WIDE =
  /[\p{Emoji_Presentation}\p{Script=Han}\p{Script=Hangul}\p{Script=Hiragana}\p{Script=Katakana}\u3000-\u303e\uff01-\uff60]/u;
const NARROWEST = /[\p{M}\u200c\u200d]/u;
const SHORT = new Map([
  ["\n", "\\n"],
  ["\r", "\\r"],
  ["\t", "\\t"],
]);

/** A text on one line in which nothing can move the cursor, colour, or reorder what is read. */
export function visible(text: string): string {
  return text.replace(HIDDEN, (found) => {
    const code = found.codePointAt(0) as number;
    return SHORT.get(found) ?? (code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`);
  });
}

/** The same of JSON, which stays the same JSON: what `JSON.stringify` leaves as it is becomes `\uXXXX`. */
export function visibleJson(json: string): string {
  const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return json.replace(HIDDEN, (found) => found.split("").map(escaped).join(""));
}

/** How many columns of a terminal a visible text takes. */
export function widthOf(text: string): number {
  if (/^[\x20-\x7e]*$/.test(text)) return text.length;
  let width = 0;
  for (const character of text) width += widthOfOne(character);
  return width;
}

/** A visible text in at most `width` columns; `…` stands for what was cut. */
export function cut(text: string, width: number): string {
  if (widthOf(text) <= width) return text;
  let kept = "";
  let left = width - 1;
  for (const character of text) {
    left -= widthOfOne(character);
    if (left < 0) break;
    kept += character;
  }
  return `${kept}…`;
}

const widthOfOne = (character: string) => (NARROWEST.test(character) ? 0 : WIDE.test(character) ? 2 : 1);
