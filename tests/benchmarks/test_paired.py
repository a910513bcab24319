"""The races' machinery without a peer: turns, comparison, the table, and the warning when a ratio fell."""

import json
import re
import sys

import pytest

from benchmarks import paired, table

SIDE = """
import sys
sys.path.insert(0, {folder!r})
import pace
options, turns = pace.options(), pace.Turns()
print("a library's chatter")
pace.say(parameters=3)
total = 0.0
while turns.mine():
    total += options["add"]
    with open(options["log"], "a") as log:
        log.write(options["name"])
    turns.done(loss=total, after=lambda: {{"measured": 7.0}})
"""


@pytest.fixture
def start(tmp_path):
    script = tmp_path / "side.py"
    script.write_text(SIDE.format(folder=str(paired.HERE)))

    def side(name: str, **options: object) -> paired.Side:
        told = {"name": name, "log": str(tmp_path / "log"), "add": 1.0, **options}
        return paired.Side(name, sys.executable, str(script), told, threads=1)

    return side


def result(seconds, peak=100.0, losses=(0.5, 0.4), **more):
    return {"seconds": seconds, "peak_mib": peak, "losses": list(losses), **more}


def test_sides_take_turns_and_what_the_warm_up_took_is_not_counted(start, tmp_path):
    found = paired.race([start("a"), start("b", add=2.0)], rounds=2)
    assert (tmp_path / "log").read_text() == "baabba"
    assert found["a"]["losses"] == [1.0, 2.0, 3.0]
    assert found["b"]["losses"] == [2.0, 4.0, 6.0]
    assert len(found["a"]["seconds"]) == 2
    assert found["a"]["parameters"] == 3
    assert found["a"]["measured"] == [7.0, 7.0]
    assert found["a"]["peak_mib"] > 1
    assert paired.compared(found, ours="a")["b"]["largest_loss_difference"] == 3.0


def test_the_memory_of_a_side_is_its_own_and_not_the_drivers(start):
    held = bytearray(b"x") * (300 << 20)
    found = paired.race([start("a")], rounds=1)
    assert len(held) >> 20 == 300
    assert found["a"]["peak_mib"] < 200


def test_a_side_that_fails_is_named(tmp_path):
    script = tmp_path / "side.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="peer ended with 3"):
        paired.Side("peer", sys.executable, str(script), {}, threads=1)


def test_ratios_are_of_medians_and_of_each_pair():
    found = {"clew": result([1.0, 2.0, 4.0], peak=50.0), "TRL": result([6.0, 6.0, 4.0], losses=(0.5, 0.41))}
    assert paired.compared(found)["TRL"] == {
        "times_faster": 3.0,  # 6 / 2
        "times_faster_by_pair": [6.0, 3.0, 1.0],
        "share_of_memory": 0.5,
        "largest_loss_difference": 0.01,
    }


def test_samplers_are_compared_by_tokens_a_second():
    found = {"clew": result([2.0], new_tokens=[80.0]), "generate": result([4.0], new_tokens=[40.0])}
    assert paired.compared(found)["generate"]["times_faster"] == 4.0


def test_learning_is_compared_apart_where_both_sides_tell_it():
    mine = result([2.0], learn_seconds=[1.0], median_learn_seconds=1.0)
    found = {"clew": mine, "TRL": result([4.0], learn_seconds=[3.0], median_learn_seconds=3.0)}
    assert paired.compared(found)["TRL"]["times_faster_learning"] == 3.0


@pytest.mark.parametrize(("ratio", "falls"), [(6.0, False), (5.11, False), (5.09, True)])
def test_a_ratio_that_fell_by_more_than_15_percent_is_warned_of(ratio, falls):
    before, now = ({"compared": {"TRL": {"times_faster": x}}} for x in (6.0, ratio))
    warnings = paired.fallen(before, now, "dpo-small")
    assert bool(warnings) == falls
    assert all("dpo-small" in w and "TRL" in w for w in warnings)


def test_a_side_that_did_not_run_is_warned_of():
    assert "did not run" in paired.fallen({"compared": {"TRL": {"times_faster": 6.0}}}, {"compared": {}}, "dpo")[0]


def test_the_table_has_what_is_stored_and_leaves_the_prose(tmp_path):
    sides = {"clew": result([1.0, 2.0], peak=50.0, median_share_of_peak=0.56), "TRL": result([6.0, 8.0])}
    about = {"versions": {"clew": "1", "trl": "2"}, "sides": sides, "compared": paired.compared(sides)}
    paired.write(tmp_path / "dpo-small.json", "python benchmarks/dpo.py", about)
    (tmp_path / "alarms.json").write_text(json.dumps({"command": "another benchmark"}))
    page = table.with_tables(f"before\n{table.BEGIN}\nold\n{table.END}\nafter", table.tables(table.stored(tmp_path)))
    assert page.startswith("before\n")
    assert page.endswith("\nafter")
    assert "old" not in page
    assert "another" not in page
    row = "| DPO | small | TRL | **4.67** | 4.00 to 6.00 | 0.50 (50 of 100 MiB) | 0e+00 | 56% |"
    assert row in page
    assert re.search("python benchmarks/dpo.py   # [0-9]+ cores; clew 1, trl 2\n", page)
    again = table.with_tables(page, table.tables(table.stored(tmp_path)))
    assert again == page


def test_a_page_without_markers_is_left_alone():
    with pytest.raises(ValueError, match="needs a line"):
        table.with_tables("no markers", "table")
