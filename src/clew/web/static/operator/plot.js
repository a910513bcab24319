/** Plots as inline SVG. Each has a text for those who cannot see it, and shows its numbers, not colours alone. */

import { el, svg } from "../element.js";
import { percent } from "./number.js";

const WIDTH = 560;
const WIDEST = 90;

/** Columns over time or over counts: [{label, value, title}]; every `every`-th label is written. */
export function columns(bars, { says, every = 1, height = 170 }) {
  const [top, bottom, left] = [10, 24, 38];
  const most = Math.max(1, ...bars.map(({ value }) => value));
  const step = (WIDTH - left) / bars.length;
  const wide = Math.min(0.76 * step, WIDEST);
  const y = (value) => top + (1 - value / most) * (height - top - bottom);
  const ticks = niceTicks(most);
  return frame(height, says, [
    ...ticks.map((tick) => line(left, y(tick), WIDTH, y(tick), "grid-line")),
    ...ticks.map((tick) => label(left - 7, y(tick) + 4, tick.toLocaleString("en"), "end")),
    ...bars.map(({ value, title }, place) =>
      box(left + (place + 0.5) * step - wide / 2, y(value), wide, y(0) - y(value), "bar-1", title),
    ),
    ...bars.map(
      (bar, place) =>
        place % every === 0 && label(left + (place + 0.5) * step, height - 6, bar.label, "middle"),
    ),
  ]);
}

/** Estimates with intervals on one axis: [{label, share, low, high, target}]; `marks` are lines to compare with. */
export function dots(rows, { says, from = 0, to = 1, marks = [], format = percent, labelWidth = 170 }) {
  const [top, bottom, gap, right] = [marks.length ? 22 : 8, 24, 27, 24];
  const height = top + rows.length * gap + bottom;
  const x = (value) =>
    labelWidth + ((Math.max(from, Math.min(to, value)) - from) / (to - from)) * (WIDTH - labelWidth - right);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => from + part * (to - from));
  const foot = height - bottom;
  return frame(height, says, [
    ...ticks.map((tick) => line(x(tick), top, x(tick), foot, "grid-line")),
    ...ticks.map((tick) => label(x(tick), height - 7, format(tick), "middle")),
    ...marks.flatMap(({ at, label: text }) => [
      line(x(at), top, x(at), foot, "mark-line"),
      label(x(at), 13, text, "middle"),
    ]),
    ...rows.flatMap((row, place) => dot(row, x, top + (place + 0.5) * gap, labelWidth, format)),
  ]);
}

/** Bands of reference and one measured value with its interval. */
export function bands(ranges, measured, { says }) {
  const [gap, labelWidth, bottom] = [30, 230, 24];
  const height = (ranges.length + 1) * gap + bottom;
  const x = (value) => labelWidth + value * (WIDTH - labelWidth - 24);
  const foot = height - bottom;
  return frame(height, says, [
    ...[0, 0.25, 0.5, 0.75, 1].flatMap((tick) => [
      line(x(tick), 0, x(tick), foot, "grid-line"),
      label(x(tick), height - 7, percent(tick), "middle"),
    ]),
    ...ranges.flatMap(({ name, low, high }, place) => [
      label(labelWidth - 10, (place + 0.5) * gap + 4, name, "end"),
      box(
        x(low),
        (place + 0.25) * gap,
        Math.max(4, x(high) - x(low)),
        gap / 2,
        "band",
        `${percent(low)} to ${percent(high)}`,
      ),
    ]),
    ...dot({ label: "Here", ...measured }, x, (ranges.length + 0.5) * gap, labelWidth, percent),
  ]);
}

/** Shares of a whole as one bar with its legend: [{label, value}]. */
export function shares(parts, { says }) {
  const all = parts.reduce((sum, { value }) => sum + value, 0);
  let at = 0;
  const boxes = parts.map(({ value, label: text }, place) => {
    const [start, width] = [at, (value / Math.max(1, all)) * WIDTH];
    at += width;
    return box(start, 0, Math.max(0, width - 1), 22, `bar-${(place % 5) + 1}`, `${text}: ${value}`);
  });
  const keys = parts.map(({ label: text, value }, place) =>
    el(
      "li",
      {},
      el("i", { class: `key key-${(place % 5) + 1}` }),
      `${text} `,
      el("b", {}, all ? percent(value / all) : "–"),
    ),
  );
  return el("div", { class: "shares" }, frame(22, says, boxes), el("ul", { class: "legend" }, ...keys));
}

/** How far something is: done of all. */
export function progressBar(done, all) {
  return el("progress", {
    class: "wide",
    max: Math.max(1, all),
    value: done,
    "aria-label": `${done} of ${all}`,
  });
}

function dot({ label: text, share, low, high, target }, x, y, labelWidth, format) {
  if (share === null || share === undefined)
    return [
      label(labelWidth - 10, y + 4, text, "end"),
      label(labelWidth + 6, y + 4, "not enough answers", "start"),
    ];
  const says = `${text}: ${format(share)}`;
  const whisker = low === undefined || low === null ? [] : [line(x(low), y, x(high), y, "whisker")];
  const isFarRight = x(high ?? share) > WIDTH - 60;
  const valueAt = isFarRight ? x(low ?? share) - 9 : x(high ?? share) + 9;
  const wanted = typeof target === "number" ? [line(x(target), y - 9, x(target), y + 9, "target")] : [];
  return [
    label(labelWidth - 10, y + 4, text, "end"),
    ...wanted,
    ...whisker,
    svg("circle", { cx: x(share), cy: y, r: 5, class: "dot" }, svg("title", {}, says)),
    label(valueAt, y + 4, format(share), isFarRight ? "end" : "start", "value"),
  ];
}

function frame(height, says, children) {
  return svg(
    "svg",
    { class: "plot", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": says },
    ...children,
  );
}

const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });

const label = (x, y, text, anchor, kind = "") =>
  svg("text", { x, y, "text-anchor": anchor, class: kind }, String(text));

function box(x, y, width, height, kind, title) {
  return svg(
    "rect",
    { x, y, width, height: Math.max(0, height), rx: 2, class: kind },
    title ? svg("title", {}, title) : null,
  );
}

/** Three or four round numbers from 0 to at most `most`. */
function niceTicks(most) {
  const rough = most / 3;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map((part) => part * unit).find((part) => part >= rough) ?? unit);
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, place) => place * step);
}
