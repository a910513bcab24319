"""Pieces of a page: tables, badges, numbers as people read them. Everything that comes from outside is escaped."""

import html
from collections.abc import Iterable, Mapping, Sequence

STYLE = """
:root { --ink: #1d2530; --soft: #5c6773; --line: #e3e7ec; --wash: #f7f8fa; }
* { box-sizing: border-box }
body { margin: 0; color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif }
main { max-width: 1060px; margin: 0 auto; padding: 40px 28px 80px }
h1 { font-size: 30px; margin: 0 0 4px; letter-spacing: -.01em }
h2 { font-size: 20px; margin: 44px 0 10px }
h3 { font-size: 15px; margin: 22px 0 6px }
p, li { max-width: 72ch }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: 7px 12px 7px 0; text-align: left; vertical-align: top }
th { font-weight: 600; color: var(--soft); vertical-align: bottom }
figure { margin: 14px 0 }
figure svg { max-width: 100%; height: auto }
details { margin: 10px 0 }
summary { cursor: pointer; font-weight: 600 }
pre { background: var(--wash); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; overflow: auto }
.soft { color: var(--soft) }
.bounds { white-space: nowrap }
.wide { overflow-x: auto }
.badge { border-radius: 9px; padding: 0 9px; font-size: 12.5px; font-weight: 600; color: #fff; white-space: nowrap;
  background: var(--soft) }
.ok { background: #2f9e6e } .watch { background: #b0772b } .alarm { background: #c8324a }
.headline { background: var(--wash); border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px }
.headline p { margin: 4px 0; max-width: none }
.headline + .wide { margin-top: 14px }
.sample { border: 1px solid var(--line); border-radius: 10px; margin: 14px 0; overflow: hidden }
.sample .prompt { background: var(--wash); padding: 9px 14px; font-weight: 600 }
.sample .answer { padding: 9px 14px; border-top: 1px solid var(--line) }
.sample .who { display: inline-block; min-width: 130px; color: var(--soft); font-size: 13px }
.sample .text { white-space: pre-wrap }
.scores { color: var(--soft); font-size: 12.5px; font-variant-numeric: tabular-nums }
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are markup."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{lines}</table></div>'


def interval(found: Mapping[str, float] | None, *, signed: bool = False, percent: bool = False) -> str:
    """An estimate with its bounds; a dash where there is none. No number is minus zero."""
    if found is None or "low" not in found:
        return "–"
    scale, digits, sign = (100, 0, "") if percent else (1, 2, "+" if signed else "")
    value, low, high = (f"{found[k] * scale:{sign}z.{digits}f}" for k in ("value", "low", "high"))
    return f"{value}{' %' if percent else ''} <span class='soft bounds'>[{low}, {high}]</span>"


def badge(state: str) -> str:
    """ok, watch and alarm have colours."""
    return f'<span class="badge {state}">{state}</span>'


def amount(value: float | None) -> str:
    """A count with its unit; nothing for zero."""
    if not value:
        return ""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def escaped(value: object) -> str:
    return html.escape(str(value))
