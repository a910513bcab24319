/** People, and the one-time links by which they come in. */

import { get, post } from "../api.js";
import { ask } from "../dialog.js";
import { el, name } from "../element.js";
import { button, card, field, options, table } from "./card.js";
import { time } from "./number.js";
import { standing, standingButtons } from "./standing.js";

export async function peoplePage(_project, page) {
  const { people } = await get("/people");
  const called = el("input", { type: "text", maxlength: 200, autocomplete: "off" });
  const group = el("input", { type: "text", maxlength: 100, autocomplete: "off" });
  const role = options(ROLES);
  const invite = async () => {
    const { link } = await post("/people", {
      role: role.value,
      name: called.value.trim(),
      group: group.value.trim(),
    });
    await showLink(link);
    await page.refresh();
  };
  const rotate = ({ id }) =>
    button("New link", async () => showLink((await post(`/people/${id}/rotate`)).link), {
      kind: "small",
      say: page.say,
    });
  const actions = (person) => standingButtons(person, page, rotate(person));
  return el(
    "div",
    { class: "stack" },
    card(
      "Invite somebody",
      el(
        "div",
        { class: "form" },
        field("Name", called),
        field("Role", role),
        field("Group", group),
        button("Make a link", invite, { kind: "primary", say: page.say }),
      ),
      el(
        "p",
        { class: "help" },
        "The link lets in whoever opens it first, so send it to one person. ",
        "A group, such as a region or a profession, shows whose judgements are thin.",
      ),
    ),
    card("People", table(COLUMNS.concat([["", actions]]), people)),
  );
}

async function showLink(link) {
  const box = el("input", {
    class: "one-time",
    type: "text",
    readonly: true,
    value: link,
    autofocus: true,
    "aria-label": "One-time link",
  });
  box.addEventListener("focus", () => box.select());
  await ask("One-time link", el("div", {}, el("p", {}, "Copy it now: it is shown only once."), box));
}

const ROLES = [
  ["annotator", "Rater"],
  ["operator", "Operator"],
  ["owner", "Owner"],
  ["judge", "AI judge"],
];

const COLUMNS = [
  ["Pseudonym", ({ pseudonym }) => name(pseudonym)],
  ["Name", ({ name: called }) => name(called ?? "")],
  ["Role", ({ role }) => ROLES.find(([key]) => key === role)?.[1] ?? role],
  ["Group", ({ group }) => name(group ?? "")],
  ["State", ({ state }) => standing(state)],
  ["Since", ({ created_ms: at }) => time(at)],
];
