/** What people prefer for reasons other than quality: what stands first, what is longer. */

import { get } from "../api.js";
import { el } from "../element.js";
import { card, figure, figures, grid, nothing } from "./card.js";
import { count, interval, percent } from "./number.js";
import { columns, dots } from "./plot.js";

export async function biasPage({ id }) {
  const { position, length, margins } = await get(`/projects/${id}/stats`);
  const levels = (length?.by_margin ?? []).map((one) => ({
    label: MARGINS[one.margin] ?? String(one.margin),
    ...one,
  }));
  return el(
    "div",
    { class: "stack" },
    figures(
      figure(
        "First shown wins",
        percent(position?.share, 1),
        interval(position ?? undefined, (value) => percent(value, 1)),
      ),
      figure(
        "Longer wins",
        percent(length?.share, 1),
        interval(length ?? undefined, (value) => percent(value, 1)),
      ),
      figure("Decided comparisons", count(position?.n), "ties, unsure and both bad left out"),
    ),
    grid(
      card(
        "First shown, and longer, against an even chance",
        position?.n
          ? dots(
              [
                { label: "First shown wins", ...position },
                { label: "Longer wins", ...length },
              ],
              {
                says: `First shown wins ${percent(position.share)}, longer wins ${percent(length?.share)}`,
                from: 0.25,
                to: 0.75,
                marks: [{ at: 0.5, label: "even" }],
              },
            )
          : nothing("No decided comparisons yet."),
        el(
          "p",
          { class: "help" },
          "The order of answers is counterbalanced, so position should not matter. ",
          "Above 60 % for the longer answer, read the guidelines again: length may be taken for quality.",
        ),
      ),
      card(
        "Longer wins, by how much better",
        levels.length > 0
          ? dots(levels, {
              says: "Share of longer winners at each degree",
              marks: [{ at: 0.5, label: "even" }],
            })
          : nothing("No degrees yet."),
      ),
      card(
        "Degrees used",
        margins?.some(Boolean)
          ? columns(
              margins.map((value, margin) => ({
                label: MARGINS[margin],
                value,
                title: `${MARGINS[margin]}: ${value}`,
              })),
              {
                says: "How often each degree was chosen",
              },
            )
          : nothing("No degrees yet."),
      ),
    ),
  );
}

const MARGINS = ["negligibly", "slightly", "better", "significantly"];
