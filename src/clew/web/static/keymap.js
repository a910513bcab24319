/** Every key of the desk, in one table: it drives the keyboard, the overlay of `?` and the page of the manual.

A row of alternatives (`keys`) may be remapped by its user; a family gives its place in the row as an argument. */

const digits = (first, last) => Array.from({ length: last - first + 1 }, (_, index) => String(first + index));
const shifted = (chords) => chords.map((chord) => `Shift+${chord}`);

const row = (kinds, action, keys, says, more = {}) => ({ kinds, action, keys, says, ...more });
const family = { isFamily: true };
const held = { mayRepeat: true };

const WRITING = ["demonstration", "prompt", "revision"];
const PAIRS = ["comparison", "clips"];

export const KEYS = [
  row(PAIRS, "degree", digits(1, 8), "How much better: A by far … B by far", family),
  row(["comparison"], "first", ["ArrowLeft"], "A is better"),
  row(["comparison"], "second", ["ArrowRight"], "B is better"),
  row(["comparison"], "tie", ["t", "="], "Equally good"),
  row(["comparison"], "unsure", ["9"], "Unsure"),
  row(["clips"], "first", ["ArrowLeft"], "Left is better"),
  row(["clips"], "second", ["ArrowRight"], "Right is better"),
  row(["clips"], "tie", ["ArrowDown", "t", "="], "Equal"),
  row(["clips"], "unsure", ["ArrowUp", "9"], "Cannot be compared"),
  row(["clips"], "replay", ["."], "Play both again"),
  row(["clips"], "slower", [","], "Slower, or back to full speed"),
  row(PAIRS, "both_bad", ["0"], "Both are bad"),
  row(PAIRS, "flaw", shifted(digits(1, 9)), "Mark a flaw on the side in focus", family),
  row(PAIRS, "side", ["s"], "Put the other side in focus"),
  row(PAIRS, "together", ["v"], "Scroll both sides together"),
  row(["ranking"], "place", digits(1, 9), "Best first: add this answer to the order", family),
  row(["ranking"], "tie", ["=", "t"], "The last one ties with the one before"),
  row(["ranking"], "takeBack", ["Backspace"], "Take the last one back"),
  row(["ranking"], "left", ["ArrowLeft", "ArrowUp"], "Answer before", held),
  row(["ranking"], "right", ["ArrowRight", "ArrowDown"], "Next answer", held),
  row(["ranking"], "notRankable", ["n"], "This answer cannot be ranked"),
  row(["rating"], "value", digits(0, 9), "Rate on the scale in focus, go to the next", family),
  row(["rating"], "up", ["ArrowUp", "k"], "Scale above", held),
  row(["rating"], "down", ["ArrowDown", "j"], "Scale below", held),
  row(["thumb"], "good", ["ArrowUp", "y"], "Thumb up"),
  row(["thumb"], "bad", ["ArrowDown", "n"], "Thumb down"),
  row(["thumb"], "reason", digits(1, 9), "Give or take back a reason", family),
  row(["steps"], "wrong", ["z"], "Wrong step (−)"),
  row(["steps"], "neutral", ["x"], "Neither right nor wrong (0)"),
  row(["steps"], "right", ["c"], "Right step (+)"),
  row(["steps"], "down", ["j", "ArrowDown"], "Next step", held),
  row(["steps"], "up", ["k", "ArrowUp"], "Step before", held),
  row(["steps"], "write", ["w"], "Write the step as it should have been"),
  row(["steps"], "badProblem", ["m"], "The problem itself is bad"),
  row(["steps"], "giveUp", ["q"], "Give up: I cannot judge this"),
  row(["spans"], "right", ["ArrowRight"], "Move by a character", held),
  row(["spans"], "left", ["ArrowLeft"], "Move back by a character", held),
  row(["spans"], "wordRight", ["Ctrl+ArrowRight", "j"], "Move by a word", held),
  row(["spans"], "wordLeft", ["Ctrl+ArrowLeft", "k"], "Move back by a word", held),
  row(["spans"], "selectRight", ["Shift+ArrowRight"], "Select a character more", held),
  row(["spans"], "selectLeft", ["Shift+ArrowLeft"], "Select a character less", held),
  row(["spans"], "selectWordRight", ["Ctrl+Shift+ArrowRight", "Shift+j"], "Select a word more", held),
  row(["spans"], "selectWordLeft", ["Ctrl+Shift+ArrowLeft", "Shift+k"], "Select a word less", held),
  row(["spans"], "start", ["Home"], "To the beginning"),
  row(["spans"], "end", ["End"], "To the end"),
  row(["spans"], "category", digits(1, 9), "Mark the selection with this category", family),
  row(["spans"], "takeBack", ["Delete", "Backspace"], "Remove the mark under the cursor, or the last one"),
  row(["spans"], "nothing", ["n"], "Nothing to mark"),
  row(["flaws"], "yes", ["y"], "Yes, next question"),
  row(["flaws"], "no", ["n"], "No, next question"),
  row(["flaws"], "down", ["j", "ArrowDown"], "Next question", held),
  row(["flaws"], "up", ["k", "ArrowUp"], "Question before", held),
  row(["flaws"], "allNo", ["0"], "No to all that is unanswered"),
  row(["conversation"], "send", ["Ctrl+Enter"], "Send the message"),
  row(["conversation"], "degree", digits(1, 8), "How much better: A by far … B by far", family),
  row(["conversation"], "first", ["ArrowLeft"], "A is the better reply"),
  row(["conversation"], "second", ["ArrowRight"], "B is the better reply"),
  row([...WRITING, "conversation"], "write", ["e"], "Into the text box"),

  row("all", "submit", ["Enter", "Ctrl+Enter"], "Submit and go on (Ctrl + Enter also inside a text box)"),
  row("all", "skip", [" "], "Skip, with a reason"),
  row("all", "undo", ["u", "Ctrl+z"], "Undo: open my last answer again"),
  row("all", "note", ["/"], "Write a note or a reason"),
  row("all", "leave", ["Escape"], "Leave the text box"),
  row("all", "prompt", ["p"], "Fold or unfold the prompt"),
  row("all", "raw", ["r"], "Raw text, without formatting"),
  row("all", "invisibles", ["i"], "Show invisible characters"),
  row("all", "words", ["l"], "Show how long the answers are"),
  row("all", "guidelines", ["g"], "Guidelines"),
  row("all", "flag", ["f"], "Flag this task to the operator"),
  row("all", "mine", ["h"], "My work so far"),
  row("all", "keys", ["?"], "These keys"),
];

/** The rows that hold for a kind of task, its own first, with the user's keys in place of the table's. */
export function keysOf(kind, remapped = {}) {
  const own = KEYS.filter((entry) => entry.kinds !== "all" && entry.kinds.includes(kind));
  const all = KEYS.filter((entry) => entry.kinds === "all");
  return [...own, ...all].map((entry) => ({
    ...entry,
    id: keyId(entry),
    keys: remapped[keyId(entry)] ?? entry.keys,
  }));
}

/** A person's own keys in this browser: {id of a row: [chord]}. */
export const ownKeys = (owner) => JSON.parse(localStorage.getItem(`clew.keys.${owner}`) ?? "{}");

export const keepKeys = (owner, keymap) => localStorage.setItem(`clew.keys.${owner}`, JSON.stringify(keymap));

/** The name under which a user's own keys for a row are kept: "undo", "comparison.tie". */
const keyId = (entry) => (entry.kinds === "all" ? entry.action : `${entry.kinds[0]}.${entry.action}`);
