"""Whatever the split into micro-batches, the padding side, packing or sharing of prompts: the same gradient.

For the objective of every recipe, on a real (tiny) transformer: relative norm 1e-10 in float64, 1e-5 in float32.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from clew.batch import Batch, Objective, item_weights, token_weights
from clew.config import Choice
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.data.sources import Source
from clew.judgements import Raters, rank_objective
from clew.judges.score import RewardSource
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.pair import PAIR_LOSSES
from clew.losses.rank import all_pairs, crowd_bt, plackett_luce
from clew.losses.single import kto
from clew.models.load import make_policy
from clew.models.reward import ScalarModel, give_pad_token
from clew.models.trunk import Trunk
from clew.pairwise import pair_objective
from clew.policy_gradient import Critic, critic_objective, policy_objective
from clew.recipes import preference, pretrain, rl, sft
from clew.shaping import KL

NOWHERE = Source(path="")


def make_items(seed: int = 0, num: int = 5, answers: int = 3, vocab: int = 20) -> list[list[Encoded]]:
    """Items of answers to shared prompts; lengths all different."""
    rng = np.random.default_rng(seed)
    items = []
    for _ in range(num):
        prompt = rng.integers(4, vocab, size=rng.integers(4, 9)).tolist()
        rows = []
        for _ in range(answers):
            answer = [*rng.integers(4, vocab, size=rng.integers(2, 9)).tolist(), 2]
            rows.append(Encoded(prompt + answer, [False] * len(prompt) + [True] * len(answer), True))
        items.append(rows)
    return items


def filled(batch: Batch, seed: int = 1) -> Batch:
    """Random values for every extra an objective may read, as functions of the place of a token in its row."""
    g = torch.Generator().manual_seed(seed)
    shape, n = batch.tokens.shape, batch.num_items
    width = int(batch.real.sum(1).max())
    start = batch.real.float().argmax(1, keepdim=True)
    place = (torch.arange(shape[1]) - start).clamp(0, width - 1)

    def per_token() -> torch.Tensor:
        return torch.randn(shape[0], width, generator=g, dtype=torch.float64).gather(1, place) * batch.mask

    old = -per_token().abs() - 1
    extras = {
        "old_logps": old,
        "ref_logps": old + 0.1 * per_token(),
        "advantages": per_token(),
        "returns": per_token(),
        "old_values": per_token(),
        "margin": torch.rand(n, generator=g),
        "agreement": 0.5 + torch.rand(n, generator=g) / 2,
        "desirable": torch.rand(n, generator=g) > 0.5,
        "z": torch.full((n,), 0.3),
        "rater": torch.arange(n) % 2,
    }
    weights = {
        "token": token_weights(batch.mask, "sequence"),
        "item": item_weights(batch, torch.rand(n, generator=g)),
    }
    return batch.with_extras(**extras).with_weights(**weights)


def summed_reference(batch: Batch) -> Batch:
    """Preference recipes keep the reference as sums [B]."""
    return batch.with_extras(ref_logps=batch.per_row(batch.extras["ref_logps"]))


RL_CONFIG = rl.RL(
    out="", model="", data=NOWHERE, reward=(RewardSource(model=""),), entropy=0.01,
    kl=KL(place="loss"), critic=Critic(model=""),
)  # fmt: skip
KL_VALUE = {"kl": 0.1}

OBJECTIVES: dict[str, tuple[Objective, int, Callable[[Batch], Batch]]] = {
    "sft": (sft.objective, 1, lambda b: b),
    "pretrain": (pretrain.objective, 1, lambda b: b),
    "preference kto": (preference.kto_objective(partial(kto)), 1, summed_reference),
    "rl clipped, entropy, kl": (policy_objective(RL_CONFIG, RL_CONFIG.kl, KL_VALUE), 3, lambda b: b),
    **{
        f"rl {name}, ratio of a {ratio}": (policy_objective(RL_CONFIG.model_copy(update={"loss": Choice(name=name), "ratio": ratio}), RL_CONFIG.kl, KL_VALUE), 3, lambda b: b)
        for name, ratio in (("reinforce", "token"), ("cispo", "token"), ("apa", "token"), ("clipped", "sequence"))
    },
    **{
        f"preference {name}": (pair_objective(partial(loss)), 2, summed_reference)
        for name, loss in PAIR_LOSSES.items()
    },
}  # fmt: skip
RATERS = Raters(*torch.tensor([[1.2, -0.7], [4.0, 1.0], [1.0, 1.0], [3.0, 2.0]], dtype=torch.float64))
SCALAR_OBJECTIVES: dict[str, tuple[Objective, int]] = {
    "reward all_pairs": (rank_objective(partial(all_pairs), 0.01), 3),
    "reward plackett_luce": (rank_objective(partial(plackett_luce), 0.0), 3),
    "reward pairs": (rank_objective(partial(all_pairs), 0.0), 2),
    "reward crowd_bt": (rank_objective(crowd_bt, 0.0, RATERS), 2),
    "rl critic": (critic_objective(RL_CONFIG.critic), 3),
}

WAYS = {
    "as one batch, padded right": {"packed": False, "budget": 1 << 20, "side": "right"},
    "padded left": {"packed": False, "budget": 1 << 20, "side": "left"},
    "padded, micro-batches": {"packed": False, "budget": 40, "side": "right"},
    "packed": {"packed": True, "budget": 1 << 20, "side": "right"},
    "packed from the left": {"packed": True, "budget": 1 << 20, "side": "left"},
    "packed, micro-batches": {"packed": True, "budget": 40, "side": "right"},
    "packed, one item at a time": {"packed": True, "budget": 1, "side": "left"},
    "packed, gradient checkpointing": {"packed": True, "budget": 60, "side": "right", "gradient_checkpointing": True},
    "packed, prompts apart": {"packed": True, "budget": 1 << 20, "side": "right", "apart": True},
}  # fmt: skip


def gradient(
    model, batch: Batch, objective: Objective, *, packed: bool, budget: int, checkpointing: bool
) -> torch.Tensor:
    model.trunk.packed = packed
    model.zero_grad()
    options = Optimiser(max_tokens=budget, gradient_checkpointing=checkpointing)
    Learner(model, options, total_steps=1).accumulate(Part(batch, objective))
    if checkpointing:
        model.module.activation_checkpointing_disable()  # the learner switched it on
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def compare(
    model, objective: Objective, answers: int, prepare: Callable[[Batch], Batch], tolerance: float, monkeypatch
):
    from clew.models import layout

    items = make_items(answers=answers)
    expected = None
    for name, way in WAYS.items():
        ranks = [list(range(answers))] * len(items)
        batch = prepare(filled(collate(items, ranks=ranks, side=way["side"])))
        monkeypatch.setattr(layout, "MIN_SHARED", 1000 if way.get("apart") else 4)
        found = gradient(
            model, batch, objective, packed=way["packed"], budget=way["budget"],
            checkpointing=way.get("gradient_checkpointing", False),
        )  # fmt: skip
        expected = found if expected is None else expected
        assert expected.norm() > 1e-3, "a gradient of nothing proves nothing"
        assert float((found - expected).norm() / expected.norm()) < tolerance, name


# GPT-2 in float64, since Llama's RMSNorm rounds to float32 whatever the weights are; Llama in float32.
EXACT, SINGLE = ("gpt2", torch.float64, 1e-10), ("llama", torch.float32, 1e-5)


def gpt2_config(**options):
    from transformers import GPT2Config

    return GPT2Config(
        n_embd=16, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2, pad_token_id=3, num_labels=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(("family", "dtype", "tolerance"), [EXACT, SINGLE])
def test_policy_gradient_does_not_depend_on_layout(name, family, dtype, tolerance, new_module, tokenizer, monkeypatch):
    from transformers import GPT2LMHeadModel

    torch.manual_seed(3)
    module = GPT2LMHeadModel(gpt2_config(vocab_size=len(tokenizer))) if family == "gpt2" else new_module()
    objective, answers, prepare = OBJECTIVES[name]
    compare(make_policy(module.to(dtype), tokenizer), objective, answers, prepare, tolerance, monkeypatch)


@pytest.mark.parametrize("name", SCALAR_OBJECTIVES)
@pytest.mark.parametrize(("family", "dtype", "tolerance"), [EXACT, SINGLE])
def test_scalar_gradient_does_not_depend_on_layout(name, family, dtype, tolerance, new_module, tokenizer, monkeypatch):
    from transformers import GPT2ForSequenceClassification, LlamaForSequenceClassification

    objective, answers = SCALAR_OBJECTIVES[name]
    torch.manual_seed(3)
    if family == "gpt2":
        module = GPT2ForSequenceClassification(gpt2_config(vocab_size=len(tokenizer)))
    else:
        config = new_module().config
        config.num_labels = 1
        module = LlamaForSequenceClassification(config)
    module = module.to(dtype).eval()
    give_pad_token(module, tokenizer)
    compare(ScalarModel(Trunk(module), tokenizer), objective, answers, lambda b: b, tolerance, monkeypatch)


def test_an_average_per_micro_batch_would_have_failed(new_policy):
    """The wrong way, so that the test above is known to see it."""
    model = new_policy()
    batch = collate(make_items(answers=1))
    batch = batch.with_weights(token=token_weights(batch.mask, "token"))
    right = gradient(model, batch, sft.objective, packed=True, budget=1 << 20, checkpointing=False)
    wrong = torch.zeros_like(right)
    parts = list(batch.split(40))
    for part in parts:
        reweighed = part.with_weights(token=token_weights(part.mask, "token"))
        wrong += gradient(model, reweighed, sft.objective, packed=True, budget=1 << 20, checkpointing=False) / len(
            parts
        )
    assert float((wrong - right).norm() / right.norm()) > 1e-2
