import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clew.batch import evaluate
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.models.load import load_policy, load_scalar
from clew.models.reference import frozen
from clew.models.reload import ReloadMismatch, check_reload

ROWS = [Encoded([1, 5, 6, 7, 2], [False, False, True, True, True], True), Encoded([1, 8, 2], [False, True, True], True)]


def test_saved_scores_come_back_through_transformers_in_a_fresh_process(model_folder, tmp_path):
    model = load_scalar(str(model_folder), seed=3)
    model.save(tmp_path / "rm")
    ours = evaluate(model, collate([[r] for r in ROWS]), max_tokens=1000).scores
    script = (
        "import sys, json, torch\nfrom transformers import AutoModelForSequenceClassification as A, AutoTokenizer as T\n"
        "m, t = A.from_pretrained(sys.argv[1], num_labels=1), T.from_pretrained(sys.argv[1])\n"
        "rows = json.loads(sys.argv[2]); w = max(map(len, rows))\n"
        "ids = torch.tensor([r + [t.pad_token_id] * (w - len(r)) for r in rows])\n"
        "print(json.dumps(m.eval()(input_ids=ids, attention_mask=(ids != t.pad_token_id).long()).logits[:, 0].tolist()))"
    )
    rows = json.dumps([r.tokens for r in ROWS])
    out = subprocess.run([sys.executable, "-c", script, str(tmp_path / "rm"), rows], capture_output=True, text=True)
    torch.testing.assert_close(torch.tensor(json.loads(out.stdout)), ours, atol=1e-6, rtol=1e-5)
    assert (tmp_path / "rm" / "model.safetensors").exists()


def test_the_pad_token_is_its_own(model_folder, tmp_path):
    load_scalar(str(model_folder)).save(tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").config
    assert config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_reward_model_scores_the_last_token_and_values_the_one_before_each(model_folder):
    model = load_scalar(str(model_folder), seed=1)
    batch = collate([[r] for r in ROWS])
    outputs = evaluate(model, batch, max_tokens=1000)
    head = model.module.score.weight[0]
    for b, row in enumerate(ROWS):
        with torch.no_grad():
            hidden = model.module.base_model(input_ids=torch.tensor([row.tokens])).last_hidden_state[0]
        scalars = hidden @ head
        torch.testing.assert_close(outputs.scores[b], scalars[-1])
        scored = torch.tensor(row.mask).nonzero()[:, 0]
        torch.testing.assert_close(outputs.values[b, scored], scalars[scored - 1])


def test_a_new_head_starts_small_and_depends_on_the_seed_only(model_folder):
    a, b, other = (load_scalar(str(model_folder), seed=s).module.score.weight for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert float(a.std()) < 0.5


def test_a_reward_model_folder_keeps_its_head_centre_and_scale(model_folder, tmp_path):
    model = load_scalar(str(model_folder), seed=2)
    model.centre, model.scale = 0.25, 1.5
    model.set_cuts(torch.tensor([0.1, 0.2]))
    model.save(tmp_path / "rm")
    again = load_scalar(str(tmp_path / "rm"), seed=99)
    assert torch.equal(again.module.score.weight, model.module.score.weight)
    assert (again.centre, again.scale) == (0.25, 1.5)
    assert torch.equal(again.cuts, model.cuts)


def test_a_head_that_was_not_saved_is_noticed(model_folder, tmp_path):
    model = load_scalar(str(model_folder), seed=2)
    model.save(tmp_path / "rm")
    model.module.score.weight.data += 1.0
    with pytest.raises(ReloadMismatch, match="what was trained was not saved"):
        check_reload(model, ROWS, tmp_path / "rm")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config.json there"):
        load_policy(str(tmp_path))


def test_the_reference_is_a_copy_that_never_learns(model_folder):
    policy = load_policy(str(model_folder))
    reference = frozen(policy)
    before = [p.clone() for p in reference.parameters()]
    for p in policy.parameters():
        p.data += 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, reference.parameters(), strict=True))
    assert not any(p.requires_grad for p in reference.parameters())
    batch = collate([[ROWS[0]]])
    assert not torch.equal(policy.evaluate(batch).logps, reference.evaluate(batch).logps)


def test_the_saved_pad_token_is_never_a_stop_token(model_folder, tmp_path):
    policy = load_policy(str(model_folder))
    policy.module.generation_config.pad_token_id = policy.tokenizer.eos_token_id
    policy.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved.get("pad_token_id") != saved["eos_token_id"]
