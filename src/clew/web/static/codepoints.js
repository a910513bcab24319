/** Offsets in Unicode code points, as the records count; JavaScript's own count UTF-16 units. */

/** Code points of a text, as an array of strings: what offsets count. */
export const points = (text) => Array.from(text);

/** The code-point offset of a UTF-16 one. */
export const toPoints = (text, units) => Array.from(text.slice(0, units)).length;

/** Start of the word after `at`, or of the one before it: where Ctrl and an arrow go. */
export function wordEdge(letters, at, step) {
  const isWord = (index) => index >= 0 && index < letters.length && /[\p{L}\p{N}_]/u.test(letters[index]);
  const ahead = () => (step > 0 ? at : at - 1);
  while (!isWord(ahead()) && ahead() >= 0 && ahead() < letters.length) at += step;
  while (isWord(ahead())) at += step;
  return at;
}
