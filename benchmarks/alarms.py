"""Does the alarm ring when it should, and only then? The quickstart over seeds, verdicts without the gold reward.

    python benchmarks/alarms.py [--seeds 10] [--jobs 2] [--out benchmarks/results/alarms.json]

Each seed is a whole quickstart: another language model, other labels, other reward models. PPO without its KL
penalty should raise an alarm in at least 9 of 10 runs; PPO with it and DPO in at most 1 of 20.
"""

import argparse
import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

FREE, REGULARISED = "PPO without KL", ("PPO", "DPO")


def one_seed(seed: int, folder: Path) -> dict[str, Any]:
    """Run the quickstart with this seed (finished stages are kept) and read its evaluation."""
    out = folder / f"seed-{seed}"
    command = [sys.executable, "-m", "clew", "run", "quickstart", f"out={out}", f"common.seed={seed}"]
    subprocess.run(command, check=True, capture_output=True)
    points = json.loads((out / "evaluation" / "evaluation.json").read_text())["points"]
    cpu = sum(json.loads(f.read_text())["ledger"].get("cpu_seconds", 0) for f in out.glob("*/run.json"))
    final = {p["policy"]: p for p in points if p["final"]}
    return {
        "seed": seed,
        "cpu_seconds_in_loops": round(cpu),
        **{
            name: {
                "verdict": final[name]["verdict"],
                "alarms": [f["rule"] for f in final[name]["findings"] if f["state"] == "alarm"],
                "values": {f["rule"]: round(f["value"], 3) for f in final[name]["findings"]},
                "gain": final[name]["gain"],
                "kl": round(final[name]["kl"]["value"], 2),
            }
            for name in (FREE, *REGULARISED)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--first", type=int, default=200, help="The first seed; thresholds were chosen on 0, 1 and 100 to 109."
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/alarms"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/alarms.json"))
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda seed: one_seed(seed, options.folder), seeds))
    rang = sum(row[FREE]["verdict"] == "alarm" for row in rows)
    false = sum(row[name]["verdict"] == "alarm" for row in rows for name in REGULARISED)
    better = {name: sum(row[name]["gain"]["low"] > 0 for row in rows) for name in REGULARISED}
    result = {
        "command": "python benchmarks/alarms.py",
        "versions": {name: version(name) for name in ("clew", "torch", "transformers")}
        | {"python": platform.python_version()},
        "alarms_without_kl": f"{rang} of {len(rows)}",
        "alarms_regularised": f"{false} of {len(rows) * len(REGULARISED)}",
        "better_than_sft_on_gold": {name: f"{count} of {len(rows)}" for name, count in better.items()},
        "runs": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "runs"}, indent=1))


if __name__ == "__main__":
    main()
