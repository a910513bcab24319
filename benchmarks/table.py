"""The table of docs/performance.md, from the stored results.

    python benchmarks/table.py     # `make bench-table`

Only what stands between the page's two markers is written; the text around it stays.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- benchmarks/table.py writes from here -->", "<!-- to here -->"
HEAD = ("work", "model", "against", "times faster", "pair by pair", "peak memory", "losses apart", "share of peak")


def tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Every kind of result that is there, each with how it was got."""
    races = {name: found for name, found in results.items() if "compared" in found}
    parts = [table(HEAD, (row for found in races.values() for row in race_rows(found)))] if races else []
    for name, render in TABLES:
        if name in results:
            parts.append(render(results[name]))
    commands = dict.fromkeys(f"{found['command']}   # {conditions(found)}" for found in results.values())
    return "\n\n".join([*parts, "```sh\n" + "\n".join(commands) + "\n```"])


def race_rows(found: Mapping[str, Any]) -> Iterable[list[str]]:
    """A row for each side that clew is compared with."""
    work, _, model = found["name"].partition("-")
    mine = found["sides"]["clew"]
    for other, numbers in found["compared"].items():
        ratios, losses = numbers["times_faster_by_pair"], numbers.get("largest_loss_difference")
        yield [
            WORKS[work],
            model,
            other,
            f"**{numbers['times_faster']:.2f}**",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            f"{numbers['share_of_memory']:.2f} ({mine['peak_mib']:.0f} of {found['sides'][other]['peak_mib']:.0f} MiB)",
            "" if losses is None else f"{losses:.0e}",
            f"{mine['median_share_of_peak']:.0%}" if "median_share_of_peak" in mine else "",
        ]


def ppo_table(found: Mapping[str, Any]) -> str:
    """What each part of a PPO step takes."""
    side = found["sides"]["clew"]
    parts = {name: side[f"median_{name}_seconds"] for name in ("generate", "reference", "value")}
    parts["updates and the rest"] = side["median_seconds"] - sum(parts.values())
    rows = [[name, f"{value:.2f}", f"{value / side['median_seconds']:.0%}"] for name, value in parts.items()]
    return table(("part of a PPO step", "seconds", "share"), rows)


def memory_table(found: Mapping[str, Any]) -> str:
    rows = [
        [name, f"{side['peak_mib']:.0f}", f"{side['weights_mib']:.0f}", f"{side['rest_mib']:.0f}"]
        for name, side in found["sides"].items()
    ]
    return table(("DPO, model", "peak MiB", "of weights, gradients, AdamW", "of the step"), rows)


def profile_table(found: Mapping[str, Any]) -> str:
    rows = [(kind, f"{share:.0%}") for kind, share in found["share_of_time"].items() if share >= 0.01]
    if "steps" in found:
        rows.append(("share of the machine's peak", f"{found['median_share_of_peak']:.0%}"))
        rows.append(("tokens that padding computes, over clew's", f"{found['median_padded_over_packed']:.2f}"))
    return table((f"a step of {found['name']}", "share of the time"), rows)


def scaling_table(found: Mapping[str, Any]) -> str:
    def slopes(curve: Mapping[str, Any]) -> list[str]:
        pairs = [curve["seconds_slope"], curve["mib_slope"]]
        return [f"{pair[which]:.2f}" for pair in pairs for which in ("measured", "expected")]

    head = ("cost against", "seconds: slope", "expected", "memory: slope", "expected")
    return table(head, ([axis, *slopes(curve)] for axis, curve in found["curves"].items()))


def startup_table(found: Mapping[str, Any]) -> str:
    def row(work: str, numbers: Mapping[str, Any], until: str) -> list[str]:
        ours, theirs = (numbers["medians"][side][until] for side in ("clew", "TRL"))
        return [work, "the end" if work == "--help" else UNTIL[until], f"{ours:.1f}", f"{theirs:.1f}"]

    seconds = found["seconds"]
    rows = [row(work, seconds[work], until) for work in ("sft", "dpo") for until in UNTIL]
    return table(("from the command", "until", "clew, s", "TRL, s"), [row("--help", seconds["help"], "done"), *rows])


def plan_table(found: Mapping[str, Any]) -> str:
    def row(run: Mapping[str, Any]) -> list[str]:
        megabytes = [f"{run['predicted_mb']}", f"{run['measured_mb']}", f"{run['memory_ratio']:.2f}"]
        seconds = [f"{run['predicted_step_s']:.1f}", f"{run['measured_step_s']:.1f}"]
        return [f"{run['recipe']}, {run['shape']}", *megabytes, *seconds]

    head = ("a run", "MB: predicted", "measured", "over predicted", "s a step: predicted", "measured")
    return table(head, map(row, found["runs"]))


def overlap_table(found: Mapping[str, Any]) -> str:
    rows = [
        [name, *(f"{each[f'median {way}']:.1f}" for way in ("batch", "group", "sampling alone"))]
        for name, each in found["judges"].items()
    ]
    return table(("a reward that waits", "asked at the end, s", "about each prompt, s", "sampling alone, s"), rows)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def conditions(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{found['cores']} cores; {versions}"


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """Results of the races and of what belongs to them, by name of their file, in the order of the table."""
    names = [f"{work}-{model}" for model in MODELS for work in WORKS] + [
        name for name, _ in TABLES if name != "ppo-small"
    ]
    files = {name: folder / f"{name}.json" for name in names}
    return {name: {"name": name, **json.loads(file.read_text())} for name, file in files.items() if file.exists()}


def with_tables(page: str, content: str) -> str:
    """The page with new content between its markers. Raises ValueError where they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs a line {BEGIN!r} and after it a line {END!r}; the table goes between them")
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"


WORKS = {
    "dpo": "DPO",
    "reward": "reward model",
    "kwise": "reward model, rankings of four",
    "sft": "SFT",
    "generate": "generation, 8 prompts x 8 samples (tokens a second)",
    "grpo": "GRPO step with generation",
    "grpo_given": "GRPO step on given rollouts",
    "ppo": "PPO step",
}
MODELS = ("small", "wide", "half-gpu")
TABLES = (
    ("ppo-small", ppo_table),
    ("profile-reward-small", profile_table),
    ("profile-sft-small", profile_table),
    ("profile-generate-small", profile_table),
    ("memory", memory_table),
    ("scaling", scaling_table),
    ("startup", startup_table),
    ("plan", plan_table),
    ("overlap", overlap_table),
)
UNTIL = {"ready": "ready for the first step", "done": "the first step is done"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    asked.page.write_text(with_tables(asked.page.read_text(), tables(stored(asked.results))))


if __name__ == "__main__":
    main()
