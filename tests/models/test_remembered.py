"""The reference's log-probabilities: kept by content, so that nothing but time depends on the cache."""

import json
import multiprocessing
from dataclasses import replace

import pytest
import torch

from clew.config import cache_folder
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.models import remembered
from clew.models.adapter import Adapter, LoRA
from clew.models.reference import AdapterOff, load_start
from clew.models.remembered import Remembered, row_logps
from clew.oracles.worlds import TablePolicy, Tree, random_logits


def row(*tokens: int) -> Encoded:
    return Encoded(list(tokens), [False, *[True] * (len(tokens) - 1)], True)


ITEMS = [[row(1, 3, 5, 2), row(1, 3, 2)], [row(1, 4, 2), row(1, 4, 6, 7, 2), row(1, 2)], [row(1, 8, 9)]]


class Counted:
    """How often a model is asked, counted over all its lives here."""

    def __init__(self, monkeypatch) -> None:
        self.calls = 0

        def counting(model, batch, **options):
            self.calls += 1
            return evaluate(model, batch, **options)

        evaluate = remembered.evaluate
        monkeypatch.setattr(remembered, "evaluate", counting)


@pytest.fixture
def asked(monkeypatch) -> Counted:
    return Counted(monkeypatch)


def same(a, b) -> bool:
    return len(a) == len(b) and all(x.equal(y) for x, y in zip(a, b, strict=True))


def test_a_later_run_reads_the_same_bits_and_asks_no_model(new_policy, tmp_path, asked):
    notes: list[str] = []
    first = Remembered(new_policy(), max_tokens=64, cache=tmp_path, note=notes.append).row_logps(ITEMS)
    assert same(first, row_logps(new_policy(), ITEMS, max_tokens=64))
    assert [len(x) for x in first] == [2, 3, 1]
    asked.calls = 0
    later = Remembered(new_policy(), max_tokens=64, cache=tmp_path, note=notes.append)
    assert same(later.row_logps(ITEMS), first)
    assert asked.calls == 0
    assert notes[0].startswith("reference log-probabilities of 6 rows: 6 computed in ")
    assert notes[1] == "reference log-probabilities of 6 rows: 6 from the cache"
    later.row_logps(ITEMS)
    assert len(notes) == 2, "what is known already is not told again"


def test_what_decides_a_number_decides_what_is_found(new_policy, tmp_path, asked):
    def changed(option, value):
        policy = new_policy()
        setattr(policy if option == "temperature" else policy.trunk, option, value)
        return policy, ITEMS, 64

    unscored = [*ITEMS[:2], [replace(ITEMS[2][0], mask=[False, True, False])]]
    others = [
        (new_policy(), ITEMS, 64),
        (new_policy(1), ITEMS, 64),
        (new_policy(), ITEMS, 8),
        (new_policy(), ITEMS[:2], 64),
        (new_policy(), [*ITEMS[:2], [row(1, 8, 7)]], 64),
        (new_policy(), [[*ITEMS[0], ITEMS[1][0]], *ITEMS[1:]], 64),
        (new_policy(), unscored, 64),
        changed("temperature", 0.7),
        changed("precision", "bf16"),
        changed("packed", False),
    ]
    for policy, items, budget in others:
        asked.calls = 0
        found = Remembered(policy, max_tokens=budget, cache=tmp_path).row_logps(items)
        assert asked.calls == 1, (policy.temperature, policy.trunk.precision, budget)
        assert same(found, row_logps(policy, items, max_tokens=budget))
    assert len(list((tmp_path / "logps").iterdir())) == len(others)


def test_a_model_of_another_configuration_is_another(new_policy, tmp_path, asked):
    policy = new_policy()
    Remembered(policy, max_tokens=64, cache=tmp_path).row_logps(ITEMS)
    policy.module.config.rms_norm_eps = 0.1
    Remembered(policy, max_tokens=64, cache=tmp_path).row_logps(ITEMS)
    assert asked.calls == 2


def test_adapters_that_are_off_do_not_count(new_policy, model_folder, tmp_path, asked):
    def adapted(fill: float):
        policy = new_policy()
        policy.trunk.adapter = Adapter(policy.module, LoRA(rank=2), str(model_folder), seed=0)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(fill)
        return policy

    new, learnt = (AdapterOff(adapted(fill)) for fill in (0.0, 0.3))
    first = Remembered(new, max_tokens=64, cache=tmp_path).row_logps(ITEMS)
    assert same(Remembered(learnt, max_tokens=64, cache=tmp_path).row_logps(ITEMS), first)
    assert asked.calls == 1
    with_them = Remembered(learnt.policy, max_tokens=64, cache=tmp_path).row_logps(ITEMS)
    assert asked.calls == 2
    assert not same(with_them, first)


@pytest.mark.parametrize("hurt", ["flipped", "short", "gone", "no manifest"])
def test_a_damaged_entry_is_said_and_computed_again(hurt, new_policy, tmp_path, asked):
    notes: list[str] = []
    first = Remembered(new_policy(), max_tokens=64, cache=tmp_path).row_logps(ITEMS)
    (entry,) = (tmp_path / "logps").iterdir()
    file = entry / remembered.FILE
    whole = file.read_bytes()
    if hurt in ("flipped", "short"):
        file.write_bytes(whole[:-1] + (bytes([whole[-1] ^ 1]) if hurt == "flipped" else b""))
    else:
        (file if hurt == "gone" else entry / "manifest.json").unlink()
    assert same(Remembered(new_policy(), max_tokens=64, cache=tmp_path, note=notes.append).row_logps(ITEMS), first)
    assert asked.calls == 2
    assert f"{entry} is damaged (" in notes[0]
    assert "computed again" in notes[0]
    assert file.read_bytes() == whole


def test_a_computation_that_was_cut_goes_on_where_it_was(new_policy, tmp_path, monkeypatch, asked):
    monkeypatch.setattr(remembered, "ENTRY", 1)
    notes: list[str] = []
    Remembered(new_policy(), max_tokens=64, cache=tmp_path).row_logps(ITEMS[:2])
    asked.calls = 0
    found = Remembered(new_policy(), max_tokens=64, cache=tmp_path, note=notes.append).row_logps(ITEMS)
    assert asked.calls == 1
    assert notes[0].startswith("reference log-probabilities of 6 rows: 5 from the cache, 1 computed in ")
    assert same(found, [x for item in ITEMS for x in row_logps(new_policy(), [item], max_tokens=64)])


def ask(policy, folder, answers) -> None:
    torch.set_num_threads(1)
    notes: list[str] = []
    for start in range(3):
        found = Remembered(policy, max_tokens=64, cache=folder, note=notes.append).row_logps(ITEMS[start:])
        answers.put(([x.tolist() for x in found], [note for note in notes if "rows: " not in note]))


def test_processes_at_once_get_the_same(new_policy, tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    policy = new_policy()
    children = [context.Process(target=ask, args=(policy, tmp_path, answers)) for _ in range(4)]
    for child in children:
        child.start()
    found = [answers.get(timeout=60) for _ in range(12)]
    for child in children:
        child.join()
    expected = [[x.tolist() for x in row_logps(policy, ITEMS[i:], max_tokens=64)] for i in range(3)]
    assert all(logps in expected and not complaints for logps, complaints in found)
    entries = list((tmp_path / "logps").iterdir())
    assert len(entries) == 3, "nothing half-made is left"
    assert all(json.loads((entry / "manifest.json").read_text()) for entry in entries)


def test_a_cache_that_cannot_be_written_stops_nothing(new_policy, tmp_path):
    (tmp_path / "file").write_text("in the way")
    notes: list[str] = []
    found = Remembered(new_policy(), max_tokens=64, cache=tmp_path / "file", note=notes.append).row_logps(ITEMS)
    assert same(found, row_logps(new_policy(), ITEMS, max_tokens=64))
    assert notes[0].startswith("reference log-probabilities cannot be kept for later runs: ")


def test_nothing_is_kept_where_nothing_is_wanted(new_policy, tmp_path, asked):
    for _ in range(2):
        Remembered(new_policy(), max_tokens=64).row_logps(ITEMS)
    table = Remembered(TablePolicy(tree := Tree(3, 2), random_logits(tree, 0)), max_tokens=64, cache=tmp_path)
    table.row_logps([[r] for r in tree.rows()])
    assert asked.calls == 3
    assert not list(tmp_path.iterdir())


def test_the_cache_is_the_users_own_or_the_one_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CLEW_CACHE", "/somewhere")
    assert str(cache_folder("auto")) == "/somewhere"
    monkeypatch.delenv("CLEW_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(cache_folder("auto")) == "/caches/clew"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache_folder("auto")) == "/home/me/.cache/clew"
    assert str(cache_folder("~/c")) == "/home/me/c"
    assert cache_folder(None) is None


def test_the_policy_is_its_own_reference_only_before_its_first_step(new_policy):
    policy = new_policy()
    batch = collate(ITEMS)
    reference = load_start(None, policy)
    assert reference.evaluate(batch).logps.equal(policy.evaluate(batch).logps)
    weights = sum(p.sum() for p in policy.parameters())
    weights.backward()
    torch.optim.AdamW(policy.parameters(), fused=True).step()
    with pytest.raises(RuntimeError, match="has learnt"):
        reference.evaluate(batch)
