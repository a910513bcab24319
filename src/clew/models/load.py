"""Models from disk, tested before they are trusted: does packing leak, is our head the model's own?"""

import copy
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hub_logging

from clew.batch import Batch
from clew.models.layout import Layout, Options
from clew.models.policy import Policy
from clew.models.reward import PAD, ScalarModel, give_pad_token
from clew.models.trunk import Precision, Trunk

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda", "mps"]
M = TypeVar("M", bound=nn.Module)


def load_policy(path: str, *, precision: Precision = "fp32", device: Device = "auto") -> Policy:
    """A causal language model and its tokenizer from a folder or hub name, in float32, dropout off.

    Raises FileNotFoundError when a folder is named that holds no model, ValueError when the tokenizer has no EOS.
    """
    config = _config(path)
    module = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=torch.float32)
    nn.Module.to(module, pick_device(device))
    return make_policy(module, AutoTokenizer.from_pretrained(path), precision=precision)


def make_policy(
    module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, precision: Precision = "fp32"
) -> Policy:
    """Wrap a model in memory, in evaluation mode, its packing and its head tested."""
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {module.name_or_path} has no EOS token: nothing could teach it to stop")
    without_dropout(module)
    trunk = Trunk(module.eval(), packed=packs(module))
    policy = Policy(trunk, tokenizer)
    trunk.native = not _knows_head(policy)
    trunk.precision = precision  # after the tests, which compare in float32
    return policy


def load_judge(path: str, policy: Policy, *, device: Device = "auto") -> ScalarModel:
    """A trained reward model that is to score this policy's tokens.

    Raises ValueError for a language model, whose head would be random, and for another tokenizer.
    """
    architectures = _config(path).architectures or []
    if not _has_scalar_head(architectures):
        raise ValueError(
            f"{path} is no reward model: its architecture is {architectures}; train one with `clew reward`"
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


def load_scalar(path: str, *, precision: Precision = "fp32", device: Device = "auto", seed: int = 0) -> ScalarModel:
    """A reward or value model from a folder: of a reward model, or of a language model (new head, seeded).

    Raises ValueError when transformers has no sequence classifier for the architecture.
    """
    config = _config(path)
    architectures = config.architectures or []
    config.num_labels = 1
    try:
        module = AutoModelForSequenceClassification.from_pretrained(path, config=config, dtype=torch.float32)
    except ValueError as error:
        raise ValueError(
            f"{path}: transformers has no sequence classifier for {architectures}, so no reward model: {error}"
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(path)
    give_pad_token(module, tokenizer)
    head = module.get_submodule("score").weight
    if not _has_scalar_head(architectures):
        # Small start (1 / sqrt(D + 1), as in OpenAI's summarisation code), so that first scores are near zero.
        generator = torch.Generator().manual_seed(seed)
        head.data = torch.randn(head.shape, generator=generator) * (head.shape[1] + 1) ** -0.5
    module = module.to(pick_device(device)).eval()
    model = ScalarModel(Trunk(module, packed=packs(module), precision=precision), tokenizer)
    if Path(path).is_dir():
        model.load_extra(Path(path))
    return model


def _has_scalar_head(architectures: Sequence[str]) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in architectures)


def without_dropout(module: nn.Module) -> None:
    """Old and new log-probabilities must be of the same function, also where checkpointing needs training mode."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name, value in list(vars(part).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(part, name, 0.0)


def load_reference(path: str | None, policy: Policy) -> Policy:
    """The frozen reference, on the policy's device and in its precision: of that path, or the policy as it is now."""
    if path is None:
        return frozen(policy)
    reference = load_policy(path, precision=policy.trunk.precision)
    nn.Module.to(reference.module, policy.device)
    check_vocabulary(reference.tokenizer, policy.tokenizer, path)
    return frozen(reference)


def frozen(model: M) -> M:
    """A copy that never learns: the explicit reference."""
    twin = copy.deepcopy(model).eval()
    twin.requires_grad_(False)
    return twin


def pick_device(device: Device) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def packs(module: PreTrainedModel) -> bool:
    """The leak test: do packed rows get the hidden states that each gets alone? Otherwise pad, and say so."""
    native = module.config._attn_implementation
    packed = _packs(module)
    if not packed:
        module.config._attn_implementation = native
    return packed


def _packs(module: PreTrainedModel) -> bool:
    generator = torch.Generator().manual_seed(0)
    vocab = int(module.config.get_text_config().vocab_size)
    probe = _probe(torch.randint(vocab, (3, 11), generator=generator)).to(module.device)
    layout = Layout.of(probe.tokens, probe.real, probe.mask)
    witness = _Witness(layout)
    with torch.no_grad():
        try:
            hidden, index = Trunk(module).encode_packed(layout.tokens, layout.positions, witness), layout.index
        except (ValueError, TypeError, AttributeError, RuntimeError, LookupError) as error:
            log.warning("%s cannot run packed (%s); rows are padded", type(module).__name__, error)
            return False
        if witness.misses(module.config.get_text_config()):
            log.warning("%s keeps a part of its attention in masks; rows are padded", type(module).__name__)
            return False
        for b in range(probe.num_rows):
            alone = probe.tokens[b : b + 1, : int(probe.real[b].sum())]
            expected = module.base_model(input_ids=alone, use_cache=False).last_hidden_state[0]
            if not _close(hidden[index[b][probe.real[b]]], expected):
                log.warning("%s leaks between packed rows; rows are padded", type(module).__name__)
                return False
    return True


class _Witness:
    """A layout that notes how the model attended, for what a short probe cannot show in numbers."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._calls: Counter[int] = Counter()
        self._windowed = False

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        self._calls[layer] += 1
        self._windowed = self._windowed or options.window is not None
        return self._layout.attend(layer, query, key, value, options)

    def misses(self, config: PretrainedConfig) -> bool:
        """A window that never reaches the attention call, chunks, or a layer that attends twice (one cache each)."""
        kinds = getattr(config, "layer_types", None) or []
        windowed = getattr(config, "sliding_window", None) is not None
        windowed = windowed and getattr(config, "use_sliding_window", True) is not False
        if kinds:
            windowed = "sliding_attention" in kinds
        twice = any(count > 1 for count in self._calls.values())
        return twice or "chunked_attention" in kinds or (windowed and not self._windowed)


def _probe(tokens: Tensor) -> Batch:
    """Three rows of lengths 11, 9 and 7, the first two with a shared prompt of 5."""
    tokens[1, :5] = tokens[0, :5]
    real = torch.arange(11) < torch.tensor([[11], [9], [7]])
    mask = real & (torch.arange(11) >= 5)
    return Batch(tokens, real, mask, torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.long))


def _knows_head(policy: Policy) -> bool:
    """Our head must give the model's own logits; for one that scales them otherwise, its own are used whole."""
    vocab = int(policy.module.config.get_text_config().vocab_size)
    tokens = (torch.arange(3, 10, device=policy.device) % vocab)[None]
    mask = torch.ones_like(tokens)
    with torch.no_grad(), suppress(AttributeError):  # a model without a base of its own has only its logits
        native = policy.module(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        states = policy.module.base_model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        if _close(policy.head(states), native):
            return True
    log.warning("%s scales its logits in a way clew does not know; its own are used", type(policy.module).__name__)
    return False


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max().clamp(min=1))


def _config(path: str) -> PretrainedConfig:
    """The model's configuration with dropout off: old and new log-probabilities must be of the same function."""
    folder = Path(path)
    if (folder.exists() or path.startswith((".", "/", "~"))) and not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{path}: no config.json there, so no model; expected a Hugging Face folder or a hub name"
        )
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
