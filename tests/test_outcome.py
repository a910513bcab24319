"""What is said at the end of a run."""

import json

from clew.outcome import ending, heldout, in_words


def finished(folder, architecture="LlamaForCausalLM"):
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return folder


def test_measurements_in_words():
    assert in_words({"nll": 1.58349}) == "1.583 nats a token"
    pairs = {"accuracy": 0.6413, "accuracy_low": 0.58, "accuracy_high": 0.7, "calibration_error": 0.0312, "pairs": 240}
    assert in_words(pairs) == "accuracy 64.1 % [58.0, 70.0] of 240 pairs, calibration error 0.031"
    assert in_words({"auc": 0.5, "answers": 7}) == "area under the curve 0.500 of 7 answers"
    assert in_words({"correlation": 0.25}) == "correlation with the labels 0.250"
    assert in_words({}) == ""


def test_a_run_ends_with_its_model_its_measurement_and_what_comes_next(tmp_path):
    run = finished(tmp_path / "my dpo")
    (run / "result.json").write_text('{"heldout": {"nll": 1.0}}')
    model, following = ending(run)
    assert model == f"my dpo: the model is in {run}/model; held out: 1.000 nats a token"
    assert following == f"next: clew report '{run}'; clew export '{run}' FOLDER; clew chat '{run}'"


def test_a_stage_of_a_pipeline_ends_with_one_line(tmp_path):
    run = finished(tmp_path / "sft")
    (run / "identity.json").write_text("{}")
    assert ending(run) == [f"sft: the model is in {run}/model"]
    assert heldout(run) == ""


def test_nobody_is_sent_to_chat_with_a_reward_model(tmp_path):
    run = finished(tmp_path / "rm", "LlamaForSequenceClassification")
    assert ending(run)[1] == f"next: clew report {run}; clew export {run} FOLDER"


def test_a_run_without_a_model_ends_silently(tmp_path):
    assert ending(tmp_path) == []
