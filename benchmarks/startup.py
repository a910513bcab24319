"""From the command to the first step: `clew sft` and `clew preference` against TRL's trainers, and both commands' help.

    CLEW_DATA=... python benchmarks/startup.py [--rounds 5] [--shape tiny]     # other options: race.py

Every side is started anew in every round, in turns, and timed from outside: until it is ready for its first step, and
until that step is done; "cpu" is what the process used in all. The first round warms the files and is not counted. Both
sides compute DPO's reference anew and before the first step.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import paired
import race
import world

WORKS = ("sft", "dpo")
Sides = Mapping[str, Callable[[], dict[str, float]]]


def main() -> None:
    parser = race.parser(__doc__)
    parser.add_argument("--shape", choices=world.SHAPES, default="tiny")
    asked = parser.parse_args()
    python = race.peer_python(race.RACES["dpo"], asked.peers, required=True)
    assert python is not None, "required"
    trl = str(Path(python).with_name("trl"))
    found = {
        "help": taken(
            {
                "clew": lambda: helped([sys.executable, "-m", "clew", "--help"]),
                "TRL": lambda: helped([trl, "--help"]),
            },
            asked.rounds,
        )
    }
    for work in WORKS:
        found[work] = taken(sides(work, asked, python), asked.rounds)
    about = {"versions": {**race.our_versions(), "trl": race.version_in(python, "trl")}, "rounds": asked.rounds}
    command = f"python benchmarks/startup.py --shape {asked.shape} --rounds {asked.rounds} --threads {asked.threads}"
    results = asked.out or race.RESULTS
    paired.write(results / "startup.json", command, {**about, "shape": asked.shape, "seconds": found})


def sides(work: str, asked: argparse.Namespace, python: str) -> Sides:
    options = race.options_of(work, world.make(asked.worlds, asked.shape), asked.shape, rounds=0, gpu=False)
    flags = race.RACES[work].peers["TRL best"]
    return {
        "clew": lambda: first_step(sys.executable, "command.py", options, asked.threads),
        "TRL": lambda: first_step(python, "with_trl.py", {**options, "flags": dict(flags)}, asked.threads),
    }


def helped(command: Sequence[str]) -> dict[str, float]:
    start, cpu = time.perf_counter(), cpu_of_ended()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"done": time.perf_counter() - start, "cpu": cpu_of_ended() - cpu}


def first_step(python: str, script: str, options: Mapping[str, Any], threads: int) -> dict[str, float]:
    start, cpu = time.perf_counter(), cpu_of_ended()
    side = paired.Side(script, python, script, options, threads=threads)
    ready = time.perf_counter() - start
    loss = side.step()["loss"]
    done = time.perf_counter() - start
    side.end()
    return {"ready": ready, "done": done, "cpu": cpu_of_ended() - cpu, "loss": loss}


def cpu_of_ended() -> float:
    """CPU seconds of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def taken(sides: Sides, rounds: int) -> dict[str, Any]:
    """Seconds of each side in each round after the first, their medians, and how often theirs hold ours."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            found[name].append(sides[name]())
            print(number, name, {k: round(v, 3) for k, v in found[name][-1].items()}, file=sys.stderr)
    losses = {name: all_took[0].pop("loss") for name, all_took in found.items() if "loss" in all_took[0]}
    columns = {name: {k: [round(took[k], 3) for took in rows[1:]] for k in rows[0]} for name, rows in found.items()}
    medians = {name: {k: statistics.median(v) for k, v in column.items()} for name, column in columns.items()}
    ratios = {k: round(medians["TRL"][k] / medians["clew"][k], 2) for k in medians["clew"]}
    print({"medians": medians, "times_faster": ratios, "first_loss": losses})
    return {"rounds": columns, "medians": medians, "times_faster": ratios, "first_loss": losses}


if __name__ == "__main__":
    main()
