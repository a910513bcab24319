"""Every file operation of every recipe goes wrong once; begun again, the run ends bit-identical, no row lost or doubled.

The default suite takes every so-manieth operation, another share for each recipe; `-m slow` takes all of them.
"""

import json
from functools import partial

import pytest

from ..faults import KINDS, disturbed, operations
from .conftest import assert_same, configured, run_recipe

STEPS = {
    "pretrain": {"steps": 5},
    "sft": {"steps": 5},
    "reward": {"epochs": 0.5},
    "preference": {"epochs": 0.5},
    "rl": {"steps": 5, "prompts": 4},
    "nash": {"steps": 5, "prompts": 2},
    "online": {"steps": 5, "prompts": 4},
    "distill": {"epochs": 5 / 15, "batch": 4},
}
CASES = [(name, adapted) for name in STEPS for adapted in (False, True) if (name, adapted) != ("pretrain", True)]
SHARE = dict.fromkeys(STEPS, 40) | dict.fromkeys(("online", "distill"), 160) | {"nash": 240}


def ends_as_if_nothing_had(name, adapted, world, tmp_path, monkeypatch, *, share: int) -> None:
    monkeypatch.setattr("clew.recipes.reward.check_reload", lambda *a, **k: None)  # only reads
    values = configured(name, world, adapted=adapted) | STEPS[name] | {"save_every": 2}
    total = operations(partial(run_recipe, name, tmp_path / "whole", values))
    assert len((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()) == 5
    cases = [(kind, at) for kind in KINDS for at in range(total)]
    for kind, at in cases[sum(map(ord, name)) % share :: share]:
        folder = tmp_path / f"{kind} {at}"
        disturbed(partial(run_recipe, name, folder, values), kind, at)
        run_recipe(name, folder, values)
        assert_same(tmp_path / "whole", folder)
        assert json.loads((folder / "run.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    ("name", "adapted"), [c for c in CASES if c not in (("online", True), ("distill", True), ("nash", True))]
)
def test_an_operation_that_goes_wrong_leaves_no_trace(name, adapted, world, tmp_path, monkeypatch):
    ends_as_if_nothing_had(name, adapted, world, tmp_path, monkeypatch, share=SHARE[name])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "adapted"), CASES)
def test_no_operation_that_goes_wrong_leaves_a_trace(name, adapted, world, tmp_path, monkeypatch):
    ends_as_if_nothing_had(name, adapted, world, tmp_path, monkeypatch, share=1)
