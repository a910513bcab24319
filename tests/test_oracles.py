"""`clew verify` in the test suite: every row passes, every wrong variant is caught."""

from functools import cache

import pytest

from clew.losses.advantage import GROUP_ADVANTAGES
from clew.losses.pair import PAIR_LOSSES
from clew.losses.rank import RANK_LOSSES
from clew.losses.single import POINT_LOSSES
from clew.losses.token import POLICY_LOSSES
from clew.losses.value import VALUE_LOSSES
from clew.oracles import cgpo, distillation, ilql, nash, online, policy, preference, recipes, reward, rl, selection
from clew.oracles.result import Result

PARTS = {
    m.__name__.rpartition(".")[2]: m
    for m in (cgpo, distillation, ilql, nash, online, policy, preference, recipes, reward, rl, selection)
}


@cache
def results_of(part: str) -> list[Result]:
    return list(PARTS[part].checks())


@pytest.mark.parametrize("part", PARTS)
def test_methods_converge_and_wrong_variants_miss(part):
    results = results_of(part)
    failed = [f"{r.method}: {r.distance:.3g} against {r.tolerance:g}" for r in results if not r.passed]
    assert not failed
    assert any(r.wrong for r in results)


def test_every_loss_of_every_table_has_a_row():
    rows = " ".join(r.method for part in ("policy", "preference", "reward", "rl") for r in results_of(part))
    tables = (PAIR_LOSSES, RANK_LOSSES, POINT_LOSSES, POLICY_LOSSES, VALUE_LOSSES, GROUP_ADVANTAGES)
    missing = [name for table in tables for name in table if name not in rows]
    assert not missing


def test_a_row_passes_within_and_a_wrong_variant_beyond_five_tolerances():
    assert Result("m", "t", 1.0, 1.0).passed
    assert not Result("m", "t", 1.1, 1.0).passed
    assert Result("m", "t", 5.0, 1.0, wrong=True).passed
    assert not Result("m", "t", 4.9, 1.0, wrong=True).passed
