"""Peak memory of a DPO step against the size of the vocabulary: flat, apart from the weights themselves.

    CLEW_DATA=... python benchmarks/memory.py [--rounds 3]

What grows with the weights is taken off: the weights, AdamW's two numbers for each, and the gradients that are there at
the time. So the peak is read three times in a step: when the head has its gradient, when all but the embeddings have,
and at the end. Rows and tokens are the same. What Python and its libraries take before a model is loaded is told apart,
so that it does not flatter the comparison.
"""

import statistics
import sys
from collections.abc import Mapping
from typing import Any

import paired
import race
import world

SHAPES = ("wide-8k", "wide-32k", "wide")


def rest(side: Mapping[str, Any], table: float) -> float:
    """MiB that a step holds beside weights, their gradients and AdamW's state; `table`: the head, as the embeddings."""
    weights = 4 * side["parameters"] / 2**20
    grown = {"head_mib": 3 * weights + table, "trunk_mib": 4 * weights - table, "step_mib": 4 * weights}
    return max(statistics.median(side[name]) - size for name, size in grown.items()) - side["imported_mib"]


def main() -> None:
    asked = race.parser(__doc__).parse_args()
    sides = {}
    for shape in SHAPES:
        options = race.options_of("dpo", world.make(asked.worlds, shape), shape, rounds=asked.rounds, gpu=False)
        side = race.start(shape, sys.executable, "with_clew.py", {**options, "phases": True}, asked.threads)
        found = paired.race([side], rounds=asked.rounds)[shape]
        table = 4 * world.SHAPES[shape]["vocabulary"] * world.SHAPES[shape]["width"] / 2**20
        kept = {"weights_mib": round(16 * found["parameters"] / 2**20, 1), "rest_mib": round(rest(found, table), 1)}
        sides[shape] = {**found, **kept}
    rests = [side["rest_mib"] for side in sides.values()]
    mean = sum(rests) / len(rests)
    apart = round(max(abs(rest - mean) for rest in rests) / mean, 3)
    command = f"python benchmarks/memory.py --rounds {asked.rounds}"
    about = {"versions": race.our_versions(), "rounds": asked.rounds, "sides": sides, "largest_deviation": apart}
    paired.write((asked.out or race.RESULTS) / "memory.json", command, about)
    print(f"MiB beside the weights: {dict(zip(SHAPES, rests, strict=True))}, at most {apart:.1%} from their mean")


if __name__ == "__main__":
    main()
