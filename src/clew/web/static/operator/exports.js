/** Snapshots to train on: a file, its manifest, its checksum. */

import { get, post } from "../api.js";
import { el } from "../element.js";
import { badge, button, card, field, options, table } from "./card.js";
import { count, time } from "./number.js";

export async function exportsPage({ id }, page) {
  const { exports } = await get(`/projects/${id}/exports`);
  const format = options(FORMATS);
  const identities = el("input", { type: "checkbox" });
  const make = async () => {
    await post(`/projects/${id}/exports`, { format: format.value, include_identities: identities.checked });
    await page.refresh();
    page.say("Export made");
  };
  return el(
    "div",
    { class: "stack" },
    card(
      "New export",
      el(
        "div",
        { class: "form" },
        field("Format", format),
        el("label", { class: "check" }, identities, "With names of people (owners only; is logged)"),
        button("Export", make, { kind: "primary", say: page.say }),
      ),
      el(
        "p",
        { class: "help" },
        "A snapshot of what is in the store now. Pseudonymous unless you ask otherwise; excluded people are left out.",
      ),
    ),
    card("Exports", table(COLUMNS, exports ?? [], "No exports yet.")),
  );
}

const FORMATS = [
  ["preference", "Preference pairs, weighted by their raters"],
  ["votes", "Single votes, by rater"],
  ["unpaired", "Single answers, good or bad (KTO)"],
  ["ranking", "Rankings"],
  ["rating", "Ratings"],
  ["events", "Events alone"],
];

const COLUMNS = [
  ["Made", ({ at_ms: at }) => time(at)],
  ["Format", ({ format }) => format],
  ["Rows", ({ rows }) => count(rows), "number"],
  ["Names", ({ identities }) => (identities ? badge("with names", "warn") : "pseudonymous")],
  ["sha256", ({ sha256 }) => el("code", { title: sha256 }, sha256 ? `${sha256.slice(0, 12)}…` : "")],
  [
    "",
    ({ id }) =>
      el(
        "a",
        { class: "button small", href: `/api/v1/exports/${encodeURIComponent(id)}/file`, download: "" },
        "Download",
      ),
  ],
];
