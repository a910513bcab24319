"""Models from disk and back."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hub_logging

from clew.batch import evaluate
from clew.config import ConfigError
from clew.models.adapter import Adapter, LoRA, base_of, has_head, is_adapter, open_weights
from clew.models.device import Device, pick_device
from clew.models.elementwise import in_fewer_passes
from clew.models.perturbed import with_q_heads
from clew.models.policy import Policy
from clew.models.probe import close, knows_head, packs, probe
from clew.models.reload import ReloadMismatch
from clew.models.reward import PAD, ScalarModel, give_pad_token
from clew.models.trunk import Precision, Trunk

L = TypeVar("L", Policy, ScalarModel)


def load_policy(
    path: str, *, precision: Precision = "fp32", device: Device = "auto", lora: LoRA | None = None, seed: int = 0
) -> Policy:
    """A causal language model and its tokenizer from a folder or hub name, in float32, dropout off.

    A folder of adapters alone is loaded with its base, merged. With `lora` new adapters learn, drawn from `seed`.
    Raises FileNotFoundError when a folder is named that holds no model, ValueError when the tokenizer has no EOS.
    """
    module = _open(AutoModelForCausalLM, path, _config(path), precision, device, lora)
    policy = make_policy(module, _tokenizer(path), precision=precision)
    if (Path(path) / "generation_config.json").exists():  # an adapter's folder may have one of its own
        module.generation_config = GenerationConfig.from_pretrained(path)
    if lora is not None:
        policy.trunk.adapter = Adapter(module, lora, path, seed=seed)
    return with_q_heads(policy, path)


def make_policy(
    module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, precision: Precision = "fp32"
) -> Policy:
    """Wrap a model in memory, in evaluation mode, its packing and its head tested."""
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {module.name_or_path} has no EOS token: nothing could teach it to stop")
    without_dropout(module)
    in_fewer_passes(module)
    trunk = Trunk(module.eval(), packed=packs(module))
    policy = Policy(trunk, tokenizer)
    trunk.native = not knows_head(policy)
    trunk.precision = precision  # after the tests, which compare in float32
    return policy


def load_judge(path: str, policy: Policy, *, device: Device = "auto") -> ScalarModel:
    """A trained reward model that is to score this policy's tokens.

    Raises ValueError for a language model, whose head would be random, for a preference model, which scores no answer
    alone, and for another tokenizer.
    """
    model = load_comparing(path, policy, device=device)
    model.check_alone(path)
    return model


def load_comparing(path: str, policy: Policy, *, device: Device = "auto") -> ScalarModel:
    """A preference model, or a reward model, whose scores can be compared. Raises ValueError as `load_judge` does."""
    if not is_scalar(path):
        raise ValueError(
            f"{path} is no reward model: its architecture is {_config(path).architectures} and its head would be "
            "random; train one with `clew reward`"
        )
    model = load_scalar(path, device=device)
    check_vocabulary(model.tokenizer, policy.tokenizer, path)
    return model


def check_vocabulary(theirs: PreTrainedTokenizerBase, ours: PreTrainedTokenizerBase, path: str) -> None:
    """Tokens go from model to model as ids, so all must mean the same by them. Raises ValueError."""
    known = theirs.get_vocab()
    other = [token for token, number in ours.get_vocab().items() if token != PAD and known.get(token) != number]
    if other:
        raise ValueError(
            f"{path} has another tokenizer than the policy: {len(other)} of its tokens differ, such as {other[0]!r}; "
            "use a model that was trained from the same base"
        )


def load_scalar(
    path: str, *, precision: Precision = "fp32", device: Device = "auto", lora: LoRA | None = None, seed: int = 0
) -> ScalarModel:
    """A reward or value model from a folder: of a reward model, or of a language model (new head, seeded).

    With `lora` new adapters and the head learn. Raises ValueError for an architecture without sequence classifier.
    """
    config = _config(path)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ValueError(
            f"{path}: transformers has no sequence classifier for {config.architectures}, so no reward model"
        )
    config.num_labels = 1
    module = _open(AutoModelForSequenceClassification, path, config, precision, device, lora)
    tokenizer = _tokenizer(path)
    give_pad_token(module, tokenizer)
    head = cast(nn.Linear, module.get_submodule("score")).weight
    if not is_scalar(path):
        # Small start (1 / sqrt(D + 1), as in OpenAI's summarisation code), so that first scores are near zero.
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(head.shape, generator=generator) * (head.shape[1] + 1) ** -0.5
        head.data = start.to(head.device)
    module.eval()
    in_fewer_passes(module)
    model = ScalarModel(Trunk(module, packed=packs(module), precision=precision), tokenizer)
    if lora is not None:
        model.trunk.adapter = Adapter(module, lora, path, seed=seed)
    if Path(path).is_dir():
        model.load_extra(Path(path))
    return model


def merged(model: L, folder: Path) -> L:
    """The model as anyone can load it: one that learnt in adapters is saved in `folder`/adapter and read from there.

    Raises ReloadMismatch when it then says something else.
    """
    if model.trunk.adapter is None:
        return model
    model.save(folder / "adapter")
    load = load_policy if isinstance(model, Policy) else load_scalar
    whole = load(str(folder / "adapter"))
    nn.Module.to(whole, model.device)
    if model.trunk.adapter.weights == "fp32" and not close(_says(model), _says(whole)):
        raise ReloadMismatch(f"{folder / 'adapter'}: merged into its base, the model says something else than before")
    return cast(L, whole)


def _says(model: Policy | ScalarModel) -> Tensor:
    """What a model says of a few random tokens, in full precision and at temperature 1."""
    exact = model.at(1.0) if isinstance(model, Policy) else copy.copy(model)
    exact.trunk = replace(model.trunk, precision="fp32")
    rows = probe(torch.randint(len(model.tokenizer) - 1, (3, 11), generator=torch.Generator().manual_seed(1)))
    outputs = evaluate(exact, rows, max_tokens=1 << 10)
    found = outputs.scores if outputs.logps is None else outputs.logps
    assert found is not None
    return found.cpu()


def is_scalar(path: str) -> bool:
    """A folder or hub name of a reward or value model, its head trained."""
    if is_adapter(path) and has_head(path):
        return True
    return any(name.endswith("ForSequenceClassification") for name in _config(path).architectures or [])


def _open(
    kind: Any, path: str, config: PretrainedConfig, precision: Precision, device: Device, lora: LoRA | None
) -> PreTrainedModel:
    """The weights, float32 unless LoRA freezes them in four bits, on the device."""
    place, options = pick_device(device, precision), {}
    if lora is not None:
        lora.check(precision)
        options = lora.loading()
    if options and is_adapter(path):
        raise ConfigError(f"{path} holds adapters, and four bits would blur what they learnt; merge them first")
    if options:
        options["device_map"] = {"": place}
    module = open_weights(kind, path, config=config, dtype=torch.float32, **options)
    return module if options else cast(PreTrainedModel, nn.Module.to(module, place))


def _tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Of the folder, or of the base that its adapters are for."""
    own = (Path(path) / "tokenizer_config.json").exists()
    return AutoTokenizer.from_pretrained(path if own else base_of(path))


def without_dropout(module: nn.Module) -> None:
    """Old and new log-probabilities must be of the same function, also where checkpointing needs training mode."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name, value in list(vars(part).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(part, name, 0.0)


def _config(path: str) -> PretrainedConfig:
    """The model's configuration with dropout off: old and new log-probabilities must be of the same function."""
    named, path = path, base_of(path)
    folder = Path(path)
    below = len(folder.parts) > 1 and Path(folder.parts[0]).is_dir()
    if (folder.exists() or below or path.startswith((".", "/", "~"))) and not (folder / "config.json").exists():
        moved = f"; the adapters in {named} are for it: if it has moved, say where in their adapter_config.json"
        wrong = "no config.json there, so no model" if folder.exists() else "no such folder"
        says = f"{path}: {wrong}; expected a Hugging Face folder or a hub name"
        raise FileNotFoundError(says + (moved if is_adapter(named) else ""))
    # Bars of weights, and warnings that a new head is new, tell nothing that the run does not say itself.
    hub_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(path)
    except OSError as error:
        raise FileNotFoundError(
            f"{path}: neither a folder here nor a model of the hub that can be reached: {error}"
        ) from error
    for name, value in config.to_dict().items():
        if ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config
