"""OpenRLHF's losses, computed by its own code on the inputs of the golden vectors. Runs where its wheel is installed.

    python -m tools.peers.openrlhf_losses inputs.json openrlhf.json

Installed without its dependencies: its losses need torch only. The packages' `__init__` files, which import the rest,
are passed over, and ray and deepspeed, which the losses never call, are empty modules.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor

from tools.peers.record import Inputs, as_tensor, case, with_gradient, write_cases


def pass_over_heavy_imports() -> None:
    found = importlib.util.find_spec("openrlhf")
    assert found is not None and found.submodule_search_locations is not None
    root = Path(found.submodule_search_locations[0])
    for name in ("", ".models", ".utils", ".trainer", ".trainer.ppo_utils", ".trainer.ray"):
        package = ModuleType(f"openrlhf{name}")
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[package.__name__] = package
    for name in ("ray", "deepspeed"):
        sys.modules[name] = ModuleType(name)
    for name, held in (
        ("openrlhf.trainer.ray.launcher", "RayActorGroup"),
        ("openrlhf.trainer.ppo_utils.experience", "Experience"),
    ):
        module = ModuleType(name)
        vars(module)[held] = SimpleNamespace
        sys.modules[name] = module


pass_over_heavy_imports()

from openrlhf.models.loss import (  # noqa: E402
    DPOLoss,
    GPTLMLoss,
    LogExpLoss,
    PairWiseLoss,
    PolicyLoss,
    SFTLoss,
    ValueLoss,
    aggregate_loss,
)
from openrlhf.models.utils import compute_approx_kl, compute_reward  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402
from openrlhf.trainer.ppo_utils.kl_controller import AdaptiveKLController  # noqa: E402


def dpo_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    found = []
    for title, change in (("dpo", {}), ("cdpo", {"label_smoothing": 0.1}), ("ipo", {"ipo": True})):
        options = {"beta": 0.5, "label_smoothing": 0.0, "ipo": False} | change

        def loss(logps: Tensor, options: dict[str, Any] = options) -> Tensor:
            ours, ref = ((side * x["mask"]).sum(1).chunk(2) for side in (logps, x["ref_logps"]))
            return DPOLoss(**options)(*ours, *ref)[0]

        found.append(case(title, name, DPOLoss, with_gradient(loss, x["logps"]), **options))
    return found


def reward_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    plain = with_gradient(lambda s: PairWiseLoss()(*s.chunk(2)), x["scores"])
    margin = with_gradient(lambda s: PairWiseLoss()(*s.chunk(2), margin=x["margin"]), x["scores"])
    log_exp = with_gradient(lambda s: LogExpLoss()(*s.chunk(2)), x["scores"])
    return [
        case("reward", name, PairWiseLoss, plain),
        case("reward_margin", name, PairWiseLoss, margin),
        case("reward_log_exp", name, LogExpLoss, log_exp),
    ]


def policy_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    variants: dict[str, dict[str, Any]] = {
        "ppo": {},
        "ppo_sequence": {"token_level_loss": False},
        "ppo_higher": {"clip_eps_high": 0.28},
        "ppo_dual": {"dual_clip": 1.5},
    }
    default = {"clip_eps_low": 0.2, "clip_eps_high": 0.2, "dual_clip": None, "token_level_loss": True}
    found = []
    for title, change in variants.items():
        options = default | change
        outputs = with_gradient(
            lambda logps: PolicyLoss(**options)(logps, x["old_logps"], x["advantages"], x["mask"])[0],  # noqa: B023
            x["logps"],
        )
        found.append(case(title, name, PolicyLoss, outputs, **options))
    for title, clip in (("value", None), ("value_clipped", 0.2)):
        outputs = with_gradient(
            lambda values: ValueLoss(clip)(values, x["old_values"], x["returns"], x["mask"]),  # noqa: B023
            x["values"],
        )
        found.append(case(title, name, ValueLoss, outputs, clip_eps=clip))
    for title, by_token in (("sft", True), ("sft_sequence", False)):
        outputs = with_gradient(lambda logps: SFTLoss(by_token)(logps, x["mask"]), x["logps"])  # noqa: B023
        found.append(case(title, name, SFTLoss, outputs, token_level_loss=by_token))
    return found


def kl_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    found = []
    for estimator in ("k1", "k2", "k3"):
        value = compute_approx_kl(x["logps"], x["ref_logps"], kl_estimator=estimator)
        found.append(case(estimator, name, compute_approx_kl, {"value": value * x["mask"]}, kl_estimator=estimator))

    def loss(logps: Tensor, **options: Any) -> Tensor:
        return aggregate_loss(compute_approx_kl(logps, x["ref_logps"], **options), x["mask"])

    for title, options in (
        ("k3_loss", {"kl_estimator": "k3"}),
        ("unbiased_kl_loss", {"kl_estimator": "k2", "unbiased_gradient": True}),
    ):
        gradient = with_gradient(lambda logps: loss(logps, **options), x["logps"])["gradient"]  # noqa: B023
        found.append(case(title, name, compute_approx_kl, {"gradient": gradient}, **options))
    return found


def controller_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    options = {"initial": 0.2, "target": 6.0, "horizon": 10000, "n_steps": 256, "kl": [3.0, 6.0, 6.3, 20.0]}
    controller = AdaptiveKLController(options["initial"], options["target"], options["horizon"])
    coefficients = []
    for kl in options["kl"]:
        controller.update(kl, options["n_steps"])
        coefficients.append(controller.value)
    return [case("adaptive_kl", name, AdaptiveKLController, {"coefficients": as_tensor(coefficients)}, **options)]


def extreme_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    score = with_gradient(lambda scores: LogExpLoss()(*scores.chunk(2)), x["scores"])
    k1 = compute_approx_kl(x["logps"], x["ref_logps"], kl_estimator="k1")
    return [
        case("reward_log_exp_far", name, LogExpLoss, score),
        case("k1_far", name, compute_approx_kl, {"value": k1}, kl_estimator="k1"),
    ]


def gae_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    maker = RemoteExperienceMaker.__new__(RemoteExperienceMaker)
    found = []
    for title, mask in (("gae", x["mask"]), ("gae_turns", x["turns"])):
        advantages, returns = maker.get_advantages_and_returns(x["values"], x["rewards"], mask, 0.9, 0.8)
        outputs = {"advantages": advantages * mask, "returns": returns * mask}
        found.append(case(title, name, RemoteExperienceMaker.get_advantages_and_returns, outputs, gamma=0.9, lambd=0.8))
    togo = maker.get_cumulative_returns(x["rewards"].float(), x["mask"], 0.9)
    found.append(case("reward_to_go", name, RemoteExperienceMaker.get_cumulative_returns, {"returns": togo}, gamma=0.9))
    kl = (x["old_logps"] - x["ref_logps"]) * x["mask"]
    rewards = compute_reward(x["outcomes"].flatten(), 0.05, kl, x["mask"])
    return [*found, case("token_rewards", name, compute_reward, {"rewards": rewards}, kl_coef=0.05)]


def shaped(estimator: str, x: Inputs, kl_coef: float, *, whitened: bool = False) -> Tensor:
    """Advantages [B, T] of rollouts with these outcomes, the KL penalty in the reward."""
    maker = RemoteExperienceMaker.__new__(RemoteExperienceMaker)
    advantage = SimpleNamespace(estimator=estimator, gamma=1.0, lambd=0.95, no_std_norm=not whitened)
    maker.strategy = SimpleNamespace(
        args=SimpleNamespace(
            rollout=SimpleNamespace(n_samples_per_prompt=x["outcomes"].shape[1]),
            reward=SimpleNamespace(clip_range=None),
            algo=SimpleNamespace(advantage=advantage),
        )
    )
    maker.args, maker.advantage_estimator, maker.kl_ctl = maker.strategy.args, estimator, SimpleNamespace(value=kl_coef)
    experience = SimpleNamespace(
        index=list(range(len(x["mask"]))),
        rewards=x["outcomes"].flatten(),
        action_mask=x["mask"],
        kl=((x["old_logps"] - x["ref_logps"]) * x["mask"]).to(x["outcomes"].dtype),
        values=x["values"],
        info={},
    )
    (found,) = maker.compute_advantages_and_returns([experience])
    return found.advantages * x["mask"]


def advantage_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    code, found = RemoteExperienceMaker.compute_advantages_and_returns, []
    for estimator in ("rloo", "dr_grpo", "group_norm", "flash_reinforce"):
        outputs = {"advantages": shaped(estimator, x, 0.0)}
        found.append(case(estimator, name, code, outputs, estimator=estimator, kl_coef=0.0))
    with_kl = {"advantages": shaped("rloo", x, 0.05)}
    whitened = {"advantages": shaped("gae", x, 0.05, whitened=True)}
    return [
        *found,
        case("rloo_kl", name, code, with_kl, estimator="rloo", kl_coef=0.05),
        case("gae_whitened", name, code, whitened, estimator="gae", kl_coef=0.05, gamma=1.0, lambd=0.95),
    ]


def tie_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    """A group of equal rewards in float32, as reward functions give them."""
    ties = {**x, "outcomes": x["outcomes"].float()}
    outputs = {"advantages": shaped("group_norm", ties, 0.0)}
    return [
        case(
            "group_norm_tie",
            name,
            RemoteExperienceMaker.compute_advantages_and_returns,
            outputs,
            estimator="group_norm",
        )
    ]


def logits_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    labels = x["tokens"].long().masked_fill(~x["mask"], -100)
    outputs = with_gradient(lambda logits: GPTLMLoss()(logits, labels), x["logits"])
    return [case("language_model", name, GPTLMLoss, outputs)]


MAKERS = {
    "pairs": (dpo_cases, reward_cases),
    "rollouts": (policy_cases, kl_cases, gae_cases, advantage_cases),
    "ties": (tie_cases,),
    "logits": (logits_cases,),
    "extreme": (extreme_cases, controller_cases),
}


if __name__ == "__main__":
    write_cases("openrlhf", MAKERS)
