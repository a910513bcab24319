/** Numbers as people read them; a dash where there is none. */

export const NONE = "–";

const known = (value, format) =>
  value === null || value === undefined || Number.isNaN(value) ? NONE : format(value);

export const count = (value) => known(value, (n) => Math.round(n).toLocaleString("en"));
export const percent = (value, digits = 0) => known(value, (n) => `${(100 * n).toFixed(digits)}\u00a0%`);
export const decimal = (value, digits = 2) => known(value, (n) => n.toFixed(digits));
export const seconds = (value) =>
  known(value, (n) => (n < 90 ? `${n.toFixed(n < 10 ? 1 : 0)} s` : duration(1000 * n)));
export const time = (ms) =>
  known(ms, (n) => new Date(n).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }));
export const money = (value, currency) => known(value, (n) => `${n.toFixed(2)} ${currency}`);

/** "[.38, .44]" of an estimate with `low` and `high`. */
export const interval = ({ low, high } = {}, format = decimal) =>
  known(low, String) === NONE ? "" : `${format(low)} to ${format(high)}`;

/** A p-value or an e-value, short. */
export const tiny = (value) =>
  known(value, (n) => {
    if (n > 0 && (n < 0.001 || n >= 1e6)) return n.toExponential(0).replace("e+", "e");
    return n >= 100 ? count(n) : n.toPrecision(2);
  });

/** "2 d 4 h" of milliseconds. */
export const duration = (ms) =>
  known(ms, (n) => {
    const minutes = Math.round(n / 60_000);
    const [days, hours] = [Math.floor(minutes / 1440), Math.floor(minutes / 60) % 24];
    if (days > 0) return `${days} d ${hours} h`;
    return hours > 0 ? `${hours} h ${minutes % 60} min` : `${minutes} min`;
  });
