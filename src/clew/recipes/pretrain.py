"""Pretraining from scratch: a tokenizer learnt from the text, a small Llama, next-token prediction."""

from collections.abc import Iterator, Sequence

from pydantic import Field

from clew.batch import Batch, Metric, Model, Outputs, Term, token_weights
from clew.config import ConfigError, Training
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.data.sources import Source, load_examples, step_indices
from clew.learn.checkpoint import TrainState
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.token import nll
from clew.models.device import pick_device
from clew.models.fresh import SPECIAL, Architecture, Vocabulary, learn_tokenizer, new_policy
from clew.runs import Loop, Run
from clew.track import trackers


class Pretrain(Training):
    data: Source
    model: Architecture = Architecture()
    tokenizer: Vocabulary = Vocabulary()
    steps: int = Field(default=1000, ge=1)
    batch: int = Field(default=32, ge=1)
    """Windows of text a step, each at most `window` tokens."""
    window: int = Field(default=256, ge=1)
    learner: Optimiser = Optimiser(lr=1e-3, warmup=0.05)


def run(config: Pretrain) -> None:
    with Run(config, config.out, "pretrain", trackers(config)) as run:
        if run.is_finished:
            return
        texts = [
            whole for e in load_examples(config.data) for whole in e.answers if isinstance(whole, str) and not e.prompt
        ]
        if not texts:
            raise ConfigError(f"pretraining reads plain text; {config.data.path} has no column 'text'")
        tokenizer = learn_tokenizer(texts, config.tokenizer)
        device = pick_device(config.device, config.precision)
        policy = new_policy(config.model, tokenizer, seed=config.seed, device=device, precision=config.precision)
        rows = list(
            windows(tokenizer(texts).input_ids, SPECIAL.index("</s>"), min(config.window, config.model.context - 1))
        )
        train(policy, rows, config, run)
        policy.save(run.model_folder)
        run.finish()


def train(policy: Model, rows: list[Encoded], config: Pretrain, run: Loop) -> None:
    learner = Learner(policy, config.learner, total_steps=config.steps)
    state = TrainState({"policy": learner})
    for step in run.steps(config.steps, state, save_every=config.save_every, keep=config.keep):
        picked = step_indices(len(rows), config.batch, seed=config.seed, step=step.number)
        batch = collate([[rows[i]] for i in picked])
        batch = batch.with_weights(token=token_weights(batch.mask, "token"))
        step.track(learner.step(Part(batch, objective)))
        run.account(learner.spent())


def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
    assert outputs.logps is not None
    return [Term("nll", nll(outputs.logps), "token")], []


def windows(texts: Sequence[Sequence[int]], stop: int, window: int) -> Iterator[Encoded]:
    """Texts as token ids, each with its stop token, cut into rows of at most `window`; all but a first are learnt."""
    for ids in texts:
        whole = [*ids, stop]
        for start in range(0, len(whole) - 1, window):
            piece = whole[start : start + window + 1]
            yield Encoded(piece, [False] + [True] * (len(piece) - 1), start + len(piece) == len(whole))
