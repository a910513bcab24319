"""clew's side of every race: the recipes as they are, step by step (pace.py), and its engine.

Only a recipe's `Run` is exchanged, for one that waits for its turns and writes no checkpoint.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import cost
import pace
import torch
from torch import Tensor, nn

from clew.batch import Batch, Outputs
from clew.config import Config
from clew.data.collate import collate
from clew.engines.local import LocalEngine
from clew.learn.checkpoint import TrainState
from clew.models import device as device_module
from clew.models import heads
from clew.models import policy as policy_module
from clew.models.load import load_policy
from clew.models.policy import Policy
from clew.models.reward import ScalarModel
from clew.recipes import preference, reward, rl, sft
from clew.runs import Run, State, Step
from clew.types import Prompt, Rollout, Sampling

options = pace.options()
turns = pace.Turns()
folder = Path(options["folder"])
device = options.get("device", "cpu")
spent: dict[str, float] = defaultdict(float)
"""Operations and tokens of the turn; seconds of what is measured apart."""
imported_mib = pace.resident_mib()
"""What Python and its libraries take before there is a model."""


class Paced(Run):
    """A run that ends with the driver's turns."""

    def steps(self, total: int, state: State, *, save_every: int, keep: int | None) -> Iterator[Step]:
        learners = cast(TrainState, state).learners
        models = [cast(nn.Module, learner.model) for learner in learners.values()]
        pace.say(parameters=sum(p.numel() for model in models for p in model.parameters()), imported_mib=imported_mib)
        for number in range(total):
            if not turns.mine():
                sys.exit()
            spent.clear()
            if options.get("phases"):
                pace.forget_peak()
            step = Step(self, number, is_saved=False)
            yield step
            turns.done(loss=loss_of(step), **told(turns.elapsed()), after=peak)
        turns.mine()
        sys.exit()


def loss_of(step: Step) -> float:
    """The whole objective; the learner reports its terms without their coefficients."""
    kl = options.get("kl", 0.0)
    return sum(v * (kl if k == "loss/kl" else 1) for k, v in step.metrics.items() if k.startswith("loss/"))


def told(elapsed: float) -> dict[str, float]:
    if options.get("phases"):
        spent["step_mib"] = pace.resident_mib()
    if "generate_seconds" in spent:
        spent["learn_seconds"] = elapsed - spent["generate_seconds"]
    return dict(spent)


def peak() -> dict[str, float]:
    """The machine's GEMM peak, measured between the turns."""
    dtype = torch.bfloat16 if options.get("precision") == "bf16" else torch.float32
    return {"peak_operations": cost.gemm_peak(device, dtype)}


def counted(evaluate: Callable[[Any, Batch], Outputs]) -> Callable[[Any, Batch], Outputs]:
    """`evaluate`, its operations added up, and the seconds of passes without gradient."""

    def wrapped(model: Any, batch: Batch) -> Outputs:
        start = time.perf_counter()
        outputs = evaluate(model, batch)
        learns = torch.is_grad_enabled()
        spent["operations"] += cost.forward_operations(model, model.trunk, batch) * (3 if learns else 1)
        if learns:
            spent["tokens"] += float(batch.real.sum())
        else:
            name = "value_seconds" if isinstance(model, ScalarModel) else "reference_seconds"
            spent[name] += time.perf_counter() - start
        return outputs

    return wrapped


class Timed(LocalEngine):
    """The recipe's engine, its seconds told apart."""

    def generate(self, prompts: Sequence[Prompt], **asked: Any) -> list[Rollout]:
        start = time.perf_counter()
        rollouts = super().generate(prompts, **asked)
        spent["generate_seconds"] += time.perf_counter() - start
        return rollouts


class Given(LocalEngine):
    """An engine that "samples" what the world holds; the turn begins behind it."""

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, key: tuple[int, int], **_: Any
    ) -> list[Rollout]:
        known = {row["prompt"]: row["answers_ids"] for row in pace.read_rows(folder / "rollouts.jsonl")}
        found = [self._as_rollout(prompt, answer) for prompt in prompts for answer in known[prompt.text][:n]]
        with torch.no_grad():
            logps = self.policy.evaluate(collate([found[i : i + n] for i in range(0, len(found), n)])).logps
        assert logps is not None
        found = [replace(r, logps=row[: len(r.tokens)].tolist()) for r, row in zip(found, logps, strict=True)]
        spent.clear()
        turns.restart()
        return found

    def _as_rollout(self, prompt: Prompt, answer: list[int]) -> Rollout:
        tokens, mask = [*prompt.tokens, *answer], [False] * len(prompt.tokens) + [True] * len(answer)
        text = str(self.policy.tokenizer.decode(answer, skip_special_tokens=True))
        return Rollout(prompt.id, tokens, mask, [], "length", self.version, prompt.text, text)


def start(recipe: Any, kind: type[Config], model: str, rows: str, **more: Any) -> None:
    """The recipe on the race's rows; what all recipes have in common is set here."""
    learner = {"lr": options["lr"], "schedule": "constant", "warmup": 0.0, **options.get("learner", {})}
    data = {"path": str(folder / rows), "limit": options["batch"] * options["steps"]}
    with tempfile.TemporaryDirectory() as out:
        config = kind.model_validate(
            {
                "out": f"{out}/run",
                "model": str(folder / model),
                "data": data,
                "encoding": {"max_length": options["length"]},
                "device": device,
                "precision": options.get("precision", "fp32"),
                "learner": learner,
                **more,
            }
        )
        with (
            patch.object(recipe, "Run", Paced),
            patch.object(Policy, "evaluate", counted(Policy.evaluate)),
            patch.object(ScalarModel, "evaluate", counted(ScalarModel.evaluate)),
            phases() if options.get("phases") else nullcontext(),
        ):
            recipe.run(config)


@contextmanager
def phases() -> Iterator[None]:
    """Peak memory of a step so far, told when the head's gradients are there, and when all but the embeddings' are.

    Memory that is freed goes back to the system, or it would hide what a later phase needs.
    """

    def marked(name: str, tensor: Tensor) -> None:
        def mark(_: Tensor) -> None:
            spent[name] = pace.resident_mib()

        if tensor.requires_grad:
            tensor.register_hook(mark)

    def watched(head: heads.Head, hidden: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
        marked("head_mib", hidden)
        return heads.token_stats(head, hidden, *more)

    def embedded(module: nn.Module, _: Any, states: Tensor) -> None:
        if isinstance(module, nn.Embedding):
            marked("trunk_mib", states)

    hook = nn.modules.module.register_module_forward_hook(embedded)
    with patch.object(policy_module, "token_stats", watched), patch.object(device_module, "keep_memory"):
        yield
    hook.remove()


def preferred(loss: str) -> None:
    more = {"cache": None} if "cache" in preference.Preference.model_fields else {}
    given = {"name": loss, "beta": 0.1}
    start(preference, preference.Preference, "model", options["rows"], batch=options["batch"], loss=given, **more)


def dpo() -> None:
    preferred("dpo")


def kto() -> None:
    preferred("kto")


def run_sft() -> None:
    start(sft, sft.SFT, "model", "pairs.jsonl", batch=options["batch"])


def run_reward() -> None:
    start(reward, reward.RewardConfig, "scalar", options["rows"], batch=options["batch"], loss={"name": "all_pairs"})


def reinforced(engine: type[LocalEngine], **more: Any) -> None:
    function = Path(__file__).parent / "rewards.py"
    with patch.object(rl, "LocalEngine", engine):
        start(
            rl,
            rl.RL,
            "endless",
            "rollouts.jsonl",
            prompts=options["batch"],
            group=options["group"],
            max_tokens=options["max_tokens"],
            steps=options["steps"],
            reward=[{"function": f"{function}:vowels"}],
            **more,
        )


def grpo(engine: type[LocalEngine] = Timed) -> None:
    kl = {"place": "loss", "loss": "forward", "coefficient": options["kl"]}
    reinforced(engine, advantages={"name": "group_normalised"}, kl=kl)


def grpo_given() -> None:
    grpo(Given)


def ppo() -> None:
    critic = {"model": str(folder / "scalar"), "learner": {"lr": options["lr"], "schedule": "constant"}}
    reinforced(Timed, critic=critic, epochs=4, minibatches=4)


def generate() -> None:
    """Prompts with several samples each, until the sampled stop."""
    policy = load_policy(str(folder / "talking"), device=device, precision=options.get("precision", "fp32"))
    engine = LocalEngine(policy, **options.get("engine", {}))
    sampling = Sampling(options["max_tokens"])
    pace.say(parameters=sum(p.numel() for p in policy.parameters()))
    for number in range(options["steps"]):
        if not turns.mine():
            return
        rows = pace.read_rows(folder / "rollouts.jsonl")[number * options["batch"] :][: options["batch"]]
        prompts = [Prompt(str(i), row["prompt_ids"], row["prompt"]) for i, row in enumerate(rows)]
        rollouts = engine.generate(prompts, n=options["group"], sampling=sampling, key=(0, number))
        turns.done(new_tokens=float(sum(sum(r.mask) for r in rollouts)))
    turns.mine()


WORKS = {
    "dpo": dpo,
    "kto": kto,
    "sft": run_sft,
    "reward": run_reward,
    "kwise": run_reward,
    "generate": generate,
    "grpo": grpo,
    "grpo_given": grpo_given,
    "ppo": ppo,
}

if __name__ == "__main__":
    WORKS[options["work"]]()
