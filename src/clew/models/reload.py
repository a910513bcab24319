"""What was saved is what was trained: a fresh process, with plain transformers, must say of rows what we say.

python -m clew.models.reload FOLDER   reads rows of token ids as JSON, writes a score or log-probability each as JSON
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clew.batch import Model, evaluate
from clew.data.collate import TokenRow, collate


class ReloadMismatch(RuntimeError):
    """A saved model does not say what it said before it was saved."""


def check_reload(model: Model, rows: Sequence[TokenRow], folder: Path, *, tolerance: float = 1e-4) -> None:
    """Compare what a model says of rows with what plain transformers makes of `folder` in another process.

    A reward model's scores, or a policy's log-probabilities at temperature 1, summed over all that is scored. Raises
    ReloadMismatch; `tolerance` is relative to the largest value, at least to 1.
    """
    batch = collate([[row] for row in rows])
    outputs = evaluate(model, batch, max_tokens=1 << 20)
    expected = batch.per_row(outputs.logps.cpu()) if outputs.logps is not None else outputs.scores
    assert expected is not None
    asked = [[list(row.tokens), row.mask.index(True) if any(row.mask) else len(row.mask)] for row in rows]
    found = torch.tensor(in_fresh_process(str(folder), asked))
    gap = (found - expected.cpu()).abs()
    if not bool((gap <= tolerance * expected.abs().max().cpu().clamp(min=1)).all()):
        worst = int(gap.argmax())
        raise ReloadMismatch(
            f"{folder}: of row {worst} it says {found[worst]:.6f} after reloading and {expected[worst]:.6f} before; "
            "what was trained was not saved"
        )


def in_fresh_process(folder: str, rows: list[list[Any]]) -> list[float]:
    """`said`, where nothing of clew has touched transformers."""
    command = [sys.executable, "-m", "clew.models.reload", folder]
    answer = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ReloadMismatch(f"{folder} does not load in a fresh process: {answer.stderr[-400:]}")
    return json.loads(answer.stdout)


@torch.no_grad()
def said(folder: str, rows: list[list[Any]]) -> list[float]:
    """By plain transformers, padded as anyone would pad: scores, or log-probability from each row's first place on."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    architectures = AutoConfig.from_pretrained(folder).architectures or []
    scalar = any(name.endswith("ForSequenceClassification") for name in architectures)
    if scalar:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
        pad = model.config.pad_token_id
    else:
        model, pad = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), 0
    width = max(len(tokens) for tokens, _ in rows)
    ids = torch.tensor([tokens + [pad] * (width - len(tokens)) for tokens, _ in rows])
    real = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _ in rows])
    logits = model(input_ids=ids, attention_mask=real).logits
    if scalar:
        return logits[:, 0].tolist()
    logps = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0]
    return [float(logps[i, first - 1 : len(tokens) - 1].sum()) for i, (tokens, first) in enumerate(rows)]


if __name__ == "__main__":
    json.dump(said(sys.argv[1], json.load(sys.stdin)), sys.stdout)
