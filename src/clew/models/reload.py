"""What was saved is what was trained: a fresh process loads a reward model and must give the same scores.

python -m clew.models.reload FOLDER   reads rows of token ids as JSON, writes scores as JSON
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from clew.batch import evaluate
from clew.data.collate import TokenRow, collate
from clew.models.reward import ScalarModel


class ReloadMismatch(RuntimeError):
    """A saved model does not give the scores it gave before it was saved."""


def check_reload(model: ScalarModel, rows: Sequence[TokenRow], folder: Path, *, tolerance: float = 1e-4) -> None:
    """Compare scores of rows with those that `AutoModelForSequenceClassification` gives in another process."""
    expected = evaluate(model, collate([[row] for row in rows]), max_tokens=1 << 20).scores
    assert expected is not None
    answer = subprocess.run(
        [sys.executable, "-m", "clew.models.reload", str(folder)],
        input=json.dumps([list(row.tokens) for row in rows]),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise ReloadMismatch(f"{folder} does not load in a fresh process: {answer.stderr[-400:]}")
    found = torch.tensor(json.loads(answer.stdout))
    gap = (found - expected.cpu()).abs()
    if not bool((gap <= tolerance * expected.abs().max().cpu().clamp(min=1)).all()):
        raise ReloadMismatch(
            f"{folder}: row {int(gap.argmax())} scores {found[gap.argmax()]:.6f} after reloading and "
            f"{expected[gap.argmax()]:.6f} before; the head was not saved as it was trained"
        )


def _score_rows(folder: str, rows: list[list[int]]) -> list[float]:
    """Scores by plain transformers, padded as anyone would pad."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
    pad, width = model.config.pad_token_id, max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()


if __name__ == "__main__":
    json.dump(_score_rows(sys.argv[1], json.load(sys.stdin)), sys.stdout)
