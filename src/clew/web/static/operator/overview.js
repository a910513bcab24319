/** How far the project is, how fast, at what cost, and what needs a look. */

import { get } from "../api.js";
import { el } from "../element.js";
import { badge, card, figure, figures, grid, nothing } from "./card.js";
import { count, duration, money, percent, seconds } from "./number.js";
import { columns, progressBar, shares } from "./plot.js";

export async function overviewPage({ id }) {
  const [progress, stats] = await Promise.all([
    get(`/projects/${id}/progress`),
    get(`/projects/${id}/stats`),
  ]);
  const { items, done, votes, cost } = progress;
  return el(
    "div",
    { class: "stack" },
    alarms(progress.alarms ?? []),
    figures(
      figure("Items done", `${count(done)} of ${count(items)}`, progressBar(done, items)),
      figure("Answers", count(votes), `${count(progress.open_leases)} under way`),
      figure("Time left", duration(progress.eta_ms), "at the pace of the last day"),
      figure("Median time", seconds(progress.median_seconds), "for an answer"),
      cost
        ? figure("Cost", money(cost.total, cost.currency), `${money(cost.per_label, cost.currency)} a label`)
        : null,
      figure("Held back", count(progress.held), "items that people skipped"),
    ),
    grid(
      card("Answers an hour", hours(progress.per_hour ?? [])),
      card("What people said", verdicts(stats.verdicts)),
    ),
  );
}

function alarms(list) {
  if (list.length === 0) return null;
  return el(
    "ul",
    { class: "alarms" },
    ...list.map(({ level, text }) =>
      el("li", {}, badge(level, level === "alarm" ? "bad" : "warn"), " ", text),
    ),
  );
}

function hours(list) {
  if (list.length === 0) return nothing("No answers yet.");
  const bars = list.map(({ at_ms: at, votes }) => {
    const hour = new Date(at);
    return { label: `${hour.getHours()}:00`, value: votes, title: `${hour.toLocaleString()}: ${votes}` };
  });
  return columns(bars, {
    says: `Answers in each of the last ${bars.length} hours`,
    every: Math.ceil(bars.length / 8),
  });
}

function verdicts(counts) {
  const known = Object.entries(counts ?? {}).filter(([, value]) => value > 0);
  if (known.length === 0) return nothing("No answers yet.");
  const parts = known.map(([key, value]) => ({ label: VERDICTS[key] ?? key, value }));
  const all = parts.reduce((sum, { value }) => sum + value, 0);
  return shares(parts, {
    says: parts.map(({ label, value }) => `${label} ${percent(value / all)}`).join(", "),
  });
}

const VERDICTS = {
  first: "First shown",
  second: "Second shown",
  tie: "Equally good",
  both_bad: "Both bad",
  unsure: "Unsure",
};
