"""clew against the recorded numbers of its peers: the same, or different for the reason that docs/parity.md gives."""

import json

import pytest
from torch import nan, tensor

from tools.parity import AGREEMENTS, DIFFERENCES, GOLDEN, PAGE, PEERS, distance, golden, largest, page

EXACT, APART = 1e-6, 1e-5


def name(row) -> str:
    return f"{row.peer}-{row.case}-{row.function}"


@pytest.mark.parametrize("row", AGREEMENTS, ids=name)
def test_values_and_gradients_are_the_peers(row):
    assert distance(row.ours, row) <= EXACT


@pytest.mark.parametrize("row", DIFFERENCES, ids=name)
def test_a_difference_is_the_one_that_the_page_explains(row):
    assert distance(row.theirs, row) <= EXACT
    assert distance(row.ours, row) > APART


def test_every_recorded_number_is_compared():
    recorded = {(entry["peer"], entry["name"]) for entry in golden()}
    compared = {(row.peer, row.case) for row in (*AGREEMENTS, *DIFFERENCES)}
    assert recorded == compared


def test_the_page_is_what_the_recorded_numbers_give():
    assert PAGE.read_text() == page(), "docs/parity.md is not up to date: python -m tools.parity page"


@pytest.mark.parametrize("peer", PEERS)
def test_recorded_numbers_name_their_command_and_versions(peer):
    content = json.loads((GOLDEN / f"{peer}-{PEERS[peer][0]}.json").read_text())
    assert content["command"]
    assert content["versions"][peer] == PEERS[peer][0]


def test_a_number_that_only_one_side_has_is_infinitely_far():
    assert largest(tensor([1.0, nan]), tensor([1.0, nan])) == 0
    assert largest(tensor([1.0, 2.0]), tensor([1.0, nan])) == float("inf")
    with pytest.raises(ValueError, match="shape"):
        largest(tensor([1.0]), tensor([[1.0], [2.0]]))
