import json

import pytest

from clew.durable import broken, read_rows
from clew.feedback.desk import Desk
from clew.feedback.snapshots import ExportOptions, most_each, write_snapshot
from clew.feedback.store import Store
from tests.feedback.test_leases import answer_all, first_of_task, start


@pytest.fixture
def desk(tmp_path):
    desk = Desk(Store.open(tmp_path / "s.sqlite"))
    yield desk
    desk.store.close()


@pytest.fixture
def answered(desk):
    """Four people have each answered six tasks."""
    project, people, _ = start(desk, 6, people=4, need=4)
    for person in people:
        answer_all(desk, person, project)
    return desk, project, people


def export(desk, folder, **options):
    more = {k: options.pop(k) for k in ("project", "salt") if k in options}
    return write_snapshot(desk.store, folder, ExportOptions(**options), actor="o", now=7, **more)


def files(folder):
    return {f.name: f.read_text() for f in folder.iterdir()}


def test_a_snapshot_is_files_under_a_manifest(answered, tmp_path):
    desk, project, _ = answered
    made = export(desk, tmp_path / "out", formats=("pairs", "rankings"), project=project)
    assert sorted(files(made.folder)) == [
        "events.jsonl",
        "export.json",
        "manifest.json",
        "pairs.jsonl",
        "rankings.jsonl",
    ]
    assert broken(made.folder) is None
    pairs = read_rows(made.folder / "pairs.jsonl")
    assert len(pairs) == 6
    assert {(row["chosen"], row["weight"]) for row in pairs} == {("a", 4.0)}
    about = json.loads((made.folder / "export.json").read_text())
    assert about["answers"] == {"all": 24, "excluded": 0, "over_share": 0}
    assert about["rows"] == {"pairs": 6, "rankings": 6}
    (event,) = desk.store.events(types=["exported"])
    assert (event.body["sha256"], event.body["seq_upto"]) == (made.sha256, made.seq)
    (made.folder / "pairs.jsonl").write_text("changed")
    assert "pairs.jsonl does not match its hash" in broken(made.folder)


def test_nobody_is_named_and_two_exports_cannot_be_joined(answered, tmp_path):
    desk, _, people = answered
    one, two = (export(desk, tmp_path / name) for name in ("one", "two"))
    for made in (one, two):
        whole = "".join(files(made.folder).values())
        assert not any(person in whole for person in people)
        assert "made_at" not in whole
        assert "prev_hash" not in whole
    raters = [
        {f["rater"]["id"] for e in read_rows(m.folder / "events.jsonl") for f in e["feedback"]} for m in (one, two)
    ]
    assert [len(r) for r in raters] == [4, 4]
    assert not raters[0] & raters[1]
    about = json.loads((one.folder / "export.json").read_text())
    assert about["warnings"] == ["4 raters: who knows them may guess who is who"]


def test_with_identities_the_chain_can_be_checked(answered, tmp_path):
    desk, _, people = answered
    made = export(desk, tmp_path / "out", include_identities=True)
    rows = read_rows(made.folder / "events.jsonl")
    assert [row["hash"] for row in rows[:-1]] == [row["prev_hash"] for row in rows[1:]]
    assert {f["rater"]["id"] for row in rows for f in row["feedback"]} == set(people)


def test_the_same_events_options_and_salt_give_the_same_files(answered, tmp_path):
    desk, project, people = answered
    one = export(desk, tmp_path / "one", salt="s", project=project)
    upto = one.seq
    desk.people.set_state(people[0], "excluded", actor="o", now=9)
    two = export(desk, tmp_path / "two", salt="s", project=project, upto=upto)
    changed = {k for k, text in files(one.folder).items() if text != files(two.folder)[k]}
    assert changed == {"export.json", "manifest.json"}  # what `upto` was asked for
    three = export(desk, tmp_path / "three", salt="s", project=project, upto=upto)
    assert files(two.folder) == files(three.folder)


def test_who_is_excluded_is_left_out_until_active_again(answered, tmp_path):
    desk, _, people = answered
    desk.people.set_state(people[1], "excluded", actor="o", now=1)
    made = export(desk, tmp_path / "without")
    assert {row["weight"] for row in read_rows(made.folder / "pairs.jsonl")} == {3.0}
    desk.people.set_state(people[1], "active", actor="o", now=2)
    made = export(desk, tmp_path / "with")
    assert {row["weight"] for row in read_rows(made.folder / "pairs.jsonl")} == {4.0}


def test_no_person_has_more_than_their_share(desk, tmp_path):
    project, people, _ = start(desk, 20, people=6, need=6)
    for number, person in enumerate(people):
        answer_all(desk, person, project, limit=20 if number == 0 else 4)
    made = export(desk, tmp_path / "out", formats=("votes",), max_share=0.25)
    rows = read_rows(made.folder / "votes.jsonl")
    counts = sorted(sum(row["rater"] == r for row in rows) for r in {row["rater"] for row in rows})
    assert counts == [4, 4, 4, 4, 4, 6]  # 6 of 26; 7 of 27 would be more than a quarter
    assert json.loads((made.folder / "export.json").read_text())["answers"]["over_share"] == 14


@pytest.mark.parametrize(
    ("counts", "share", "most"),
    [([60, 8, 8, 8, 8, 8], 0.25, 13), ([5, 5], 0.25, 5), ([9, 3], 0.25, 3), ([7], 0.25, 7), ([], 0.25, 0), ([10, 10, 10, 10], 0.25, 10)],
)  # fmt: skip
def test_the_most_answers_of_one_person_worked_by_hand(counts, share, most):
    assert most_each(counts, share) == most


def test_contacts_in_notes_are_warned_of(desk, tmp_path):
    project, (anna,), _ = start(desk, 1)
    (leased,) = desk.lease(anna, project, now=0)
    desk.answer(anna, leased.lease, first_of_task(leased).model_copy(update={"note": "ask me: anna@x.org"}), now=0)
    about = json.loads((export(desk, tmp_path / "out").folder / "export.json").read_text())
    assert "1 notes seem to hold an e-mail address or a telephone number" in about["warnings"]


def test_unknown_formats_are_refused(desk, tmp_path):
    with pytest.raises(ValueError, match="no export is called 'csv'; expected pairs"):
        export(desk, tmp_path / "out", formats=("csv",))


def test_known_questions_and_other_projects_are_not_exported(desk, tmp_path):
    project, (anna,), _ = start(desk, 4, gold=2, screening=2)
    other = desk.projects.add("other", desk.projects.find(project).config, actor="o", now=0)
    answer_all(desk, anna, project)
    made = export(desk, tmp_path / "out", project=project)
    assert len(read_rows(made.folder / "pairs.jsonl")) == 2
    assert read_rows(export(desk, tmp_path / "other", project=other.id).folder / "pairs.jsonl") == []
