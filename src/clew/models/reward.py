"""Scalar models: one head, read at an answer's last token (reward model) or before each token (value model)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from clew.batch import Batch, Outputs
from clew.models.policy import before, spread
from clew.models.trunk import Trunk

PAD = "<|pad|>"


class ScalarModel(nn.Module):
    """A trunk with a scalar head, saved as what `AutoModelForSequenceClassification(num_labels=1)` loads.

    As a reward model its answer is `scores`; as a value model, `values`. `centre` and `scale` describe scores on
    reference answers: judges report (score - centre) / scale, the saved head stays as it was trained.
    """

    def __init__(self, trunk: Trunk, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.trunk = trunk
        self.module: PreTrainedModel = trunk.module
        self.tokenizer = tokenizer
        self.cuts: nn.Parameter | None = None
        """Raw cut points [L - 1] of an ordinal reward model."""
        self.raters: nn.Parameter | None = None
        """Log-odds [R] of each rater being right, where they were learnt with the scores."""
        self.rater_names: list[str] = []
        self.centre, self.scale = 0.0, 1.0
        self.reads_pairs = False
        """A preference model: rows hold two answers, and the score is of the second against the first."""

    @property
    def device(self) -> torch.device:
        return self.module.device

    def evaluate(self, batch: Batch) -> Outputs:
        """Scores [B] at each row's last real token, values [B, T] before each scored token."""
        batch = batch.to(self.device)
        hidden, index = self.trunk.encode(batch)
        scalars = self.head(hidden.to(self.module.dtype))[:, 0]
        return Outputs(values=spread(scalars[before(batch, index)], batch.mask), scores=scalars[last(batch, index)])

    def features(self, batch: Batch) -> Tensor:
        """What the head reads at each row's last real token: [B, D]."""
        batch = batch.to(self.device)
        hidden, index = self.trunk.encode(batch)
        return hidden[last(batch, index)]

    @property
    def head(self) -> nn.Linear:
        return cast(nn.Linear, self.module.get_submodule("score"))

    def check_alone(self, path: str) -> None:
        """Raises ValueError for a preference model, which scores no answer alone."""
        if self.reads_pairs:
            raise ValueError(
                f"{path} is a preference model, which compares two answers and scores none alone; train a reward model "
                "with `clew reward`, `reads: answers`, or give this one to `clew nash`"
            )

    def checkpoint_activations(self) -> None:
        self.trunk.checkpoint_activations()

    def save(self, folder: Path) -> None:
        self.trunk.save(folder)
        self.tokenizer.save_pretrained(folder)
        extra = {
            "centre": self.centre,
            "scale": self.scale,
            "reads_pairs": self.reads_pairs,
            "cuts": None if self.cuts is None else self.cuts.tolist(),
            "raters": {} if self.raters is None else dict(zip(self.rater_names, self.raters.tolist(), strict=True)),
        }
        for place in (folder, folder / "adapter"):  # they belong to the adapters of a merged model as well
            if place.is_dir():
                (place / "clew.json").write_text(json.dumps(extra, indent=1))

    def load(self, folder: Path) -> None:
        """Take the weights and what belongs to them back from a saved folder, exactly."""
        self.trunk.load(folder)
        self.load_extra(folder)

    def load_extra(self, folder: Path) -> None:
        """Centre, scale, cut points and what else is known of it, where the folder has them."""
        file = folder / "clew.json"
        if file.exists():
            extra = json.loads(file.read_text())
            self.centre, self.scale = extra["centre"], extra["scale"]
            self.reads_pairs = extra.get("reads_pairs", False)
            if extra["cuts"] is not None:
                self.set_cuts(torch.tensor(extra["cuts"]))
            if known := extra.get("raters"):
                self.set_raters(list(known), torch.tensor(list(known.values())))

    def set_cuts(self, raw: Tensor) -> None:
        """Make it an ordinal model; values are replaced in place, so that an optimiser keeps its parameter."""
        if self.cuts is None or self.cuts.shape != raw.shape:
            self.cuts = nn.Parameter(raw.to(self.device))
        else:
            self.cuts.data.copy_(raw)

    def set_raters(self, names: Sequence[str], log_odds: Tensor) -> None:
        """Learn who is to be believed; values are replaced in place, as for cuts."""
        self.rater_names = list(names)
        if self.raters is None or self.raters.shape != log_odds.shape:
            self.raters = nn.Parameter(log_odds.to(self.device))
        else:
            self.raters.data.copy_(log_odds)


def last(batch: Batch, index: Tensor) -> Tensor:
    """Packed place [B] of each row's last real token."""
    columns = torch.arange(batch.tokens.shape[1], device=index.device)
    return index.gather(1, (columns * batch.real).argmax(1, keepdim=True))[:, 0]


def separator(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token between two answers in a row of a preference model. Raises ValueError without an EOS token."""
    found = tokenizer.eos_token_id
    if not isinstance(found, int):
        raise ValueError(f"the tokenizer of {tokenizer.name_or_path} has no EOS token to part two answers with")
    return found


def give_pad_token(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """A pad token of its own, since transformers finds a row's end by it: never EOS, never a token of the text."""
    if PAD not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.pad_token = PAD
    embeddings = module.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    if len(tokenizer) > embeddings.num_embeddings:
        known = embeddings.num_embeddings
        module.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        cast(nn.Embedding, module.get_input_embeddings()).weight.data[known:] = (
            0.0  # read by nobody, but the same in every life
        )
    module.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    module.config.pad_token_id = tokenizer.pad_token_id
