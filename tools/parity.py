"""Golden vectors: what the losses of TRL and OpenRLHF give on fixed inputs, and how clew's compare.

    python -m tools.parity record FOLDER   # peers in environments of their own in FOLDER; writes vectors and page
    python -m tools.parity page            # the page from the vectors that are there

Writes tests/golden/*.json and docs/parity.md. tests/golden/test_parity.py holds clew to the vectors without the peers.
"""

import argparse
import json
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from tools.peers.comparisons import AGREEMENTS, DIFFERENCES, Agreement, Difference
from tools.peers.environment import PEERS, environment
from tools.peers.inputs import SEED, draw_inputs
from tools.peers.ours import Side
from tools.peers.record import COMMAND, Inputs, as_tensor, read_inputs, write_lines

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
PAGE = ROOT / "docs" / "parity.md"
TITLES = {"trl": "TRL", "openrlhf": "OpenRLHF"}


def record(folder: Path) -> None:
    """Both peers' numbers, each from an environment of its own in `folder`; environments that are there are used."""
    write_lines(GOLDEN / "inputs.json", {"seed": SEED, "command": COMMAND}, "sets", draw_inputs(SEED))
    for peer, (version, _) in PEERS.items():
        python = environment(peer, folder)
        vectors = GOLDEN / f"{peer}-{version}.json"
        module = f"tools.peers.{peer}_losses"
        subprocess.run([python, "-m", module, GOLDEN / "inputs.json", vectors], cwd=ROOT, check=True)


@cache
def golden() -> list[dict[str, Any]]:
    """Every recorded case, its peer and the peer's version with it."""
    found = []
    for peer, (version, _) in PEERS.items():
        content = json.loads((GOLDEN / f"{peer}-{version}.json").read_text())
        found += [{"peer": peer, **entry} for entry in content["cases"]]
    return found


@cache
def inputs() -> dict[str, Inputs]:
    return read_inputs(GOLDEN / "inputs.json")


def cases_of(row: Agreement | Difference) -> list[dict[str, Any]]:
    """The recorded cases that a row is about: one for each set of inputs."""
    return [entry for entry in golden() if (entry["peer"], entry["name"]) == (row.peer, row.case)]


def distance(side: Side, row: Agreement | Difference) -> float:
    """The largest absolute difference between a side's numbers and the peer's: values and gradients, all inputs."""
    sets = inputs()
    found = []
    for entry in cases_of(row):
        numbers = side(sets[entry["inputs"]], entry["options"])
        found += [largest(numbers[key], as_tensor(expected)) for key, expected in entry["outputs"].items()]
    return max(found)


def largest(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference; infinite where only one of them is a number."""
    if ours.shape != theirs.shape:
        raise ValueError(f"numbers of shape {tuple(ours.shape)} against the peer's {tuple(theirs.shape)}")
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    return float((ours - theirs).abs().nan_to_num(nan=float("inf")).masked_fill(same, 0).max())


def page() -> str:
    """docs/parity.md, from the golden vectors and this checkout of clew."""
    versions = " and ".join(f"{TITLES[peer]} {version}" for peer, (version, _) in PEERS.items())
    agreements = [(f"`{row.function}`", *peer_columns(row), rounded(distance(row.ours, row))) for row in AGREEMENTS]
    differences = [
        (f"`{row.function}`", *peer_columns(row), rounded(distance(row.ours, row)), row.why) for row in DIFFERENCES
    ]
    return PROSE.format(
        versions=versions,
        command=COMMAND,
        agreements=table(("clew", "peer", "case", "its code", "largest difference"), agreements),
        differences=table(("clew", "peer", "case", "its code", "apart by", "why"), differences),
    )


def peer_columns(row: Agreement | Difference) -> tuple[str, str, str]:
    code = cases_of(row)[0]["code"].split("::")[1]
    return TITLES[row.peer], f"`{row.case}`", f"`{code}`"


def rounded(difference: float) -> str:
    """Below 1e-12 it is the rounding of this machine, which the page should not depend on."""
    return "< 1e-12" if difference < 1e-12 else f"{difference:.2g}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PROSE = """# Parity

The losses of {versions}, computed by their own code, against ours: values, and
gradients where there is something to differentiate. This page is written by the script that records them:

```sh
{command}   # both peers, each in an environment of its own in FOLDER
python -m tools.parity page            # this page again, from the recorded numbers
```

The recorded numbers lie in `tests/golden/`, with their inputs: ragged masks, several shapes, float64 where the peer's
code keeps it. The default tests hold clew to them, to 1e-6 where both agree; where they do not, the tests rebuild the
peer's number from the formula named here, so that the reason given is the reason. A case is the name of a recorded
number; its options stand beside it in the file.

## The same

{agreements}

## Not the same

{differences}

## Not compared

- Not in clew: TRL's `exo_pair`, `nca_pair`, `bco_pair`, `sppo_hard`, `aot`, `aot_unpaired`, `discopop`,
  `sigmoid_norm`, CPO without SimPO, `apo_zero_unpaired`, `cispo`, `sapo`, `vespo`, `luspo`, sequence-level ratios
  (GSPO), advantages scaled by the batch; OpenRLHF's GSPO and its corrections for a sampler of other numerics.
- No longer in these versions: PPO, process reward models, Nash-MD and BCO in TRL; KTO and process reward models in
  OpenRLHF.
- How log-probabilities come out of a model, and sampling, are other tests' matter.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record", help="ask the peers").add_argument("folder", type=Path)
    commands.add_parser("page", help="write the page only")
    options = parser.parse_args()
    if options.command == "record":
        record(options.folder.absolute())
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
