/** Everything that happened, newest first. */

import { get } from "../api.js";
import { el, name } from "../element.js";
import { button, card, table } from "./card.js";
import { time } from "./number.js";

export async function logPage(_project, page) {
  const { people } = await get("/people");
  const pseudonyms = new Map(people.map(({ id, pseudonym }) => [id, pseudonym]));
  const columns = COLUMNS.toSpliced(2, 0, ["Who", ({ actor }) => name(pseudonyms.get(actor) ?? actor)]);
  const list = el("div", { class: "stack" });
  let cursor = null;
  const more = button("Earlier", () => load(), { say: page.say });
  async function load() {
    const { events, next } = await get(cursor ? `/audit?cursor=${cursor}` : "/audit");
    list.append(table(columns, events));
    cursor = next;
    more.hidden = !next;
  }
  await load();
  return card(null, list, more);
}

const COLUMNS = [
  ["#", ({ seq }) => String(seq), "number"],
  ["Time", ({ at_ms: at }) => time(at)],
  ["What", ({ type }) => type],
  ["Details", ({ body }) => el("code", { class: "excerpt" }, JSON.stringify(body))],
];
