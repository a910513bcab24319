/** Which items and which groups of raters are thin. */

import { get } from "../api.js";
import { el, name } from "../element.js";
import { card, grid, nothing, table } from "./card.js";
import { count } from "./number.js";
import { columns, dots } from "./plot.js";

export async function coveragePage({ id }) {
  const { prompts, groups, thin } = await get(`/projects/${id}/coverage`);
  const bars = Object.entries(prompts ?? {}).map(([votes, value]) => ({
    label: votes,
    value,
    title: `${value} items with ${votes} answers`,
  }));
  return el(
    "div",
    { class: "stack" },
    grid(
      card(
        "Answers an item",
        bars.length > 0
          ? columns(bars, { says: "Items by their number of answers" })
          : nothing("No items yet."),
        el("p", { class: "help" }, "Items, by how many answers they have."),
      ),
      card(
        "Groups of raters",
        (groups ?? []).length > 0
          ? dots(groups.map(groupRow), { says: "Share of answers of each declared group" })
          : nothing("No groups were declared. Give people a group to see whose judgements these are."),
        el(
          "p",
          { class: "help" },
          "Share of answers by group; the bar is the declared share of the population.",
        ),
      ),
    ),
    card("Thin items", table(COLUMNS, thin ?? [], "Every item has the answers it needs.")),
  );
}

function groupRow({ name, observed, declared, votes }) {
  return { label: `${name || "no group"} · ${count(votes)}`, share: observed, target: declared };
}

const COLUMNS = [
  ["Item", ({ label }) => name(label ?? "")],
  ["Answers", ({ votes }) => count(votes), "number"],
  ["Needed", ({ need }) => count(need), "number"],
];
