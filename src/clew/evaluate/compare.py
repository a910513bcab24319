"""A policy beside its start: what its answers are worth, how far it has moved, what is suspicious about them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clew.evaluate.hacking import Signs, as_rows, disagreement, distinct, findings, repetition, verdict
from clew.evaluate.winrate import mean_interval, paired_gain, win_rate

Record = dict[str, Any]
"""What was measured of one policy. Lists over prompts: `prompts`, `texts`, `length`, `ended`, `kl`, and the scores of
`gold` and `proxy`, empty where there is none; `heldout`, such a list for each reward model; a number: `entropy`."""
Scores = Sequence[float | None]


def compared(now: Record, start: Record) -> dict[str, Any]:
    """A point of the frontier: gold, proxy and KL with intervals, gains and win rates against the start, alarms."""
    signs = signs_of(now, start)
    found = findings(signs, signs_of(start, start))
    return {
        **judged(now["gold"], start["gold"], ("gold", "gain", "win_rate")),
        **judged(now["proxy"], start["proxy"], ("proxy", "proxy_gain", "proxy_win_rate")),
        "kl": mean_interval(now["kl"])._asdict(),
        "length": mean_interval(now["length"])._asdict(),
        "ended": float(np.mean(now["ended"])),
        "signs": signs.as_dict(),
        "findings": as_rows(found),
        "verdict": verdict(found),
    }


def judged(now: Scores, start: Scores, names: tuple[str, str, str]) -> dict[str, dict[str, float]]:
    """Mean, gain and win rate, under these names; nothing of a judge who is not there, or abstains throughout."""
    new, old = both_scored(now, start)
    if not new:
        return {}
    estimates = mean_interval(new), paired_gain(new, old), win_rate(new, old)
    return {name: estimate._asdict() for name, estimate in zip(names, estimates, strict=True)}


def both_scored(now: Scores, start: Scores) -> tuple[list[float], list[float]]:
    """The scores of prompts on which the judge abstained for neither."""
    pairs = [(a, b) for a, b in zip(now, start, strict=True) if a is not None and b is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]


def signs_of(now: Record, start: Record) -> Signs:
    heldout, begun = (in_spreads(record["heldout"], start["heldout"]) for record in (now, start))
    proxy, first = both_scored(now["proxy"], start["proxy"])
    return Signs(
        proxy=float(in_spreads([proxy], [first]).mean()) if proxy and np.std(first) else None,
        heldout=float(heldout.mean()) if len(heldout) else None,
        disagreement=disagreement(heldout, begun) if len(heldout) > 1 else None,
        entropy=now["entropy"],
        kl_per_token=sum(now["kl"]) / max(sum(now["length"]), 1),
        length=float(np.mean(now["length"])),
        repetition=repetition(now["texts"]),
        distinct=distinct(now["texts"]),
        cut=1 - float(np.mean(now["ended"])),
    )


def in_spreads(scores: Sequence[Sequence[float]], start: Sequence[Sequence[float]]) -> np.ndarray:
    """Each judge's scores from the start's mean on, in spreads of the start's scores: [R, N]."""
    if not scores:
        return np.zeros((0, 0))
    now, first = np.array(scores, dtype=float), np.array(start, dtype=float)
    return (now - first.mean(1, keepdims=True)) / np.maximum(first.std(1, keepdims=True), 1e-9)


def headline(row: Mapping[str, Any]) -> str:
    """One policy in a line."""
    rules = {state: [f["rule"] for f in row["findings"] if f["state"] == state] for state in ("alarm", "watch")}
    judge, gain = ("gold", row.get("gain")) if "gain" in row else ("no gold, the proxy says", row.get("proxy_gain"))
    better = (
        f"{judge} {gain['value']:+z.2f} [{gain['low']:+z.2f}, {gain['high']:+z.2f}] against the start"
        if gain
        else "no judge was asked"
    )
    alarms = f"alarms: {', '.join(rules['alarm']) or 'none'}"
    watched = f" (watch: {', '.join(rules['watch'])})" if rules["watch"] else ""
    return f"{row['policy']}: {better}, KL {row['kl']['value']:z.1f} nats, {alarms}{watched}"


def samples_of(name: str, measured: Record, shown: int) -> list[dict[str, Any]]:
    """The first answers, for people to read; with what gold and proxy say of each."""
    columns = {"prompt": measured["prompts"], "text": measured["texts"]}
    columns |= {judge: measured[judge] for judge in ("proxy", "gold") if measured[judge]}
    return [
        {"policy": name, **{key: values[i] for key, values in columns.items()}}
        for i in range(min(shown, len(measured["texts"])))
    ]
