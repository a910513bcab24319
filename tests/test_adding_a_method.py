"""docs/adding-a-method.md, done: its change applied to a copy of clew, which then has the loss and certifies it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRIED = """
from clew.config import Choice
from clew.oracles import preference
from clew.recipes.preference import LOSSES

Choice.model_validate({"name": "gpo", "beta": 0.2}).bind(LOSSES)
row = next(r for r in preference.two_answers() if r.method == "gpo")
print(row.passed, row.distance)
"""


def test_a_new_pair_loss_touches_two_files_and_twenty_lines_at_most(tmp_path):
    page = (ROOT / "docs" / "adding-a-method.md").read_text()
    found = re.search(r"```diff\n(.*?)```", page, re.DOTALL)
    assert found is not None
    changed = [line for line in found[1].splitlines() if re.match(r"[+-](?![+-])", line)]
    assert len(re.findall(r"^\+\+\+ ", found[1], re.MULTILINE)) == 2
    assert len(changed) <= 20

    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "change.diff").write_text(found[1])
    subprocess.run(["git", "apply", "change.diff"], cwd=tmp_path, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", TRIED], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("True ")
