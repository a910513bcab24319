"""The stored races run anew, with fewer rounds: a warning, and exit code 1, where a ratio fell by more than 15 %.

CLEW_DATA=... python benchmarks/check.py [--rounds 3] [--works dpo sft ...]     # `make bench-check`
"""

import json
import sys

import paired
import race


def main() -> int:
    parser = race.parser(__doc__)
    parser.set_defaults(rounds=3, out=race.ROOT / "runs" / "bench")
    parser.add_argument("--works", nargs="*", choices=race.RACES, default=[w for w, r in race.RACES.items() if r.peers])
    asked = parser.parse_args()
    warnings: list[str] = []
    for work in asked.works:
        for file in sorted(race.RESULTS.glob(f"{work}-*.json")):
            shape = file.stem.removeprefix(f"{work}-")
            if shape in race.world.SHAPES:  # those of a GPU are not for this machine
                anew = race.run(work, shape, asked)
                paired.write(asked.out / file.name, f"python benchmarks/check.py --rounds {asked.rounds}", anew)
                warnings += paired.fallen(json.loads(file.read_text()), anew, file.stem)
    print("\n".join(warnings) or "no ratio fell by more than 15 %")
    return int(bool(warnings))


if __name__ == "__main__":
    sys.exit(main())
