"""Peak memory of a DPO step against the size of the vocabulary: flat, apart from the weights themselves.

    CLEW_DATA=... python benchmarks/memory.py [--rounds 3]

Weights, gradients and AdamW's two numbers grow with the vocabulary and are taken off, four numbers a parameter; the
reference is the policy itself before its first step. Rows and tokens are the same. What Python and its libraries take
before a model is loaded is told apart, so that it does not flatter the comparison.
"""

import sys

import paired
import race
import world

SHAPES = ("wide-8k", "wide-32k", "wide")
NUMBERS = 4
"""float32 numbers that are kept for each parameter."""


def main() -> None:
    asked = race.parser(__doc__).parse_args()
    sides = {}
    for shape in SHAPES:
        options = race.options_of("dpo", world.make(asked.worlds, shape), shape, rounds=asked.rounds, gpu=False)
        side = race.start(shape, sys.executable, "with_clew.py", options, asked.threads)
        found = paired.race([side], rounds=asked.rounds)[shape]
        weights = NUMBERS * 4 * found["parameters"] / 2**20
        rest = found["peak_mib"] - weights - found["imported_mib"]
        sides[shape] = {**found, "weights_mib": round(weights, 1), "rest_mib": round(rest, 1)}
    rests = [side["rest_mib"] for side in sides.values()]
    mean = sum(rests) / len(rests)
    apart = round(max(abs(rest - mean) for rest in rests) / mean, 3)
    command = f"python benchmarks/memory.py --rounds {asked.rounds}"
    about = {"versions": race.our_versions(), "rounds": asked.rounds, "sides": sides, "largest_deviation": apart}
    paired.write((asked.out or race.RESULTS) / "memory.json", command, about)
    print(f"MiB beside the weights: {dict(zip(SHAPES, rests, strict=True))}, at most {apart:.1%} from their mean")


if __name__ == "__main__":
    main()
