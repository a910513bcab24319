/** How far people agree, beside what others measured: 60 to 80 % is usual, 95 % is suspicious. */

import { get } from "../api.js";
import { el } from "../element.js";
import { card, figure, figures, nothing } from "./card.js";
import { count, decimal, interval, percent } from "./number.js";
import { bands } from "./plot.js";

export async function agreementPage({ id }) {
  const found = await get(`/projects/${id}/agreement`);
  const { alpha, raw, gold } = found;
  return el(
    "div",
    { class: "stack" },
    figures(
      figure("Raw agreement", percent(raw), `${count(found.pairs)} pairs of answers`),
      figure("Krippendorff's alpha", decimal(alpha), interval(found) || "needs items with two answers"),
      figure(
        "On gold questions",
        percent(gold?.share),
        gold ? interval(gold, percent) : "no gold answers yet",
      ),
      figure("Items compared", count(found.items), "with two answers or more"),
    ),
    card(
      "Beside what others measured",
      raw === null || raw === undefined
        ? nothing(
            "Agreement shows when some items have two answers. Raise the overlap of the project if none will.",
          )
        : bands(found.bands ?? [], { share: raw }, { says: `Raw agreement ${percent(raw)}` }),
      el(
        "p",
        { class: "help" },
        "Agreement of 60 to 80 % is usual for preferences. Far below: unclear guidelines or hard items. ",
        "Above 95 %: trivial items, or people who copy.",
      ),
      el(
        "ul",
        { class: "sources" },
        ...(found.bands ?? []).map(({ name, source }) => el("li", {}, `${name}: ${source}`)),
      ),
    ),
  );
}
