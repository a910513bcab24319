"""A model without numbers: it runs on tensors that are only shapes, and says what a pass holds and computes.

Nothing is allocated, so that any size fits. What is counted are the tensors that PyTorch really makes, forward and
backward, in whatever architecture: there is no formula for each.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PretrainedConfig

from clew.batch import Batch
from clew.config import ConfigError
from clew.models.adapter import Adapter, LoRA
from clew.models.attention import Options
from clew.models.divergence import Divergence, divergences
from clew.models.elementwise import in_fewer_passes
from clew.models.heads import LMHead, token_stats
from clew.models.layout import Layout
from clew.models.load import without_dropout
from clew.models.policy import before
from clew.models.q_heads import QHeads
from clew.models.trunk import Precision, Trunk

NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes a number in four bits: with a scale of 8 bits for 64 of them, and one of 32 for 256 scales (2305.14314)."""


MAPPED = 32 << 20
"""Bytes from which glibc, left to itself, always maps a block of its own and gives it back when freed (mallopt(3)).

`keep_memory` (models/device.py) turns that off: with wide vocabularies a run then takes more than is said here.
"""


FEW, MORE = 4, 8
"""Layers of a deeper model that are run: each after them costs what those between cost."""


class Cost(NamedTuple):
    """Of one pass: bytes beyond the weights, and floating point operations."""

    kept: int  # activations that the layers leave
    logits: int  # what the head adds to them, at its most
    peak: int  # the most at any moment
    held: int  # by a process on a CPU, whose heap keeps what small tensors have left
    flops: int


class Shadow:
    """A language model, or a scalar one, as its configuration describes it; with `heads` of Q,
    or beside a teacher, from whom it learns by `divergence`.

    `weights` are the bytes of its parameters as they are held, `num_trained` counts the numbers that learn.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        *,
        scalar: bool = False,
        lora: LoRA | None = None,
        precision: Precision = "fp32",
        checkpointing: bool = False,
        heads: Callable[[Trunk], QHeads] | None = None,
        divergence: Divergence | None = None,
    ) -> None:
        self._fake, self._watch = FakeTensorMode(allow_non_fake_inputs=True), _Watch()
        kind = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
        with torch.device("meta"):
            module = kind.from_config(config, dtype=torch.float32).eval()
            without_dropout(module)
            in_fewer_passes(module)
            self.trunk = Trunk(module, packed=True, precision=precision)
            if lora is not None:
                held = lora if lora.weights != "nf4" else lora.model_copy(update={"weights": "bf16"})
                held.check(precision)
                self.trunk.adapter = Adapter(module, held, config.name_or_path or "", seed=0)
            self._heads = heads and heads(self.trunk)
        with self._fake, self._watch:
            _move_to_cpu(module)
            if self._heads is not None:
                _move_to_cpu(self._heads)
        if checkpointing:
            self.trunk.checkpoint_activations()
            module.train()
        self._layers = _repeated(module)
        self.scalar = scalar
        self._divergence = divergence
        self.parameters = [*module.parameters(), *(self._heads.parameters() if self._heads else ())]
        self.num_parameters = sum(p.numel() for p in self.parameters)
        self.num_trained = sum(p.numel() for p in self.parameters if p.requires_grad)
        self._unpacked = _in_four_bits(module) if lora is not None and lora.weights == "nf4" else []
        self.weights = self._watch.live - round(sum(self._unpacked) * (2 - NF4))

    def read(self, batch: Batch) -> Cost:
        """Without gradient."""
        return self._passed(batch, learns=False)

    def learn(self, batch: Batch, *, again: bool = False) -> Cost:
        """Forward and backward; `again` with the gradients of another micro-batch there already."""
        with self._fake, self._watch:
            for parameter in self.parameters if again else []:
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        cost = self._passed(batch, learns=True)
        for parameter in self.parameters:
            parameter.grad = None
        return cost

    def _passed(self, batch: Batch, *, learns: bool) -> Cost:
        if self._layers is None:
            return self._run(batch, learns=learns)
        with _first(self._layers, FEW):
            few = self._run(batch, learns=learns)
        with _first(self._layers, MORE):
            more = self._run(batch, learns=learns)
        beyond = (len(self._layers) - MORE) / (MORE - FEW)
        return Cost(*(round(b + beyond * (b - a)) for a, b in zip(few, more, strict=True)))

    def _run(self, batch: Batch, *, learns: bool) -> Cost:
        watch, targets = self._watch, batch.tokens[batch.mask]
        weights = self.weights + round(sum(self._unpacked) * (2 - NF4))
        watch.start()
        start, small, large = watch.live, watch.small.live, watch.large.live
        try:
            with watch:
                layout = Layout.of(batch.tokens, batch.real, batch.mask)
                places = before(batch, layout.index)
            with self._fake, watch, torch.set_grad_enabled(learns):
                watched = _Attention(layout)
                states = self.trunk.encode_packed(layout.tokens, layout.positions, watched)
                kept, most, watch.peak = watch.live - start, watch.peak, watch.live
                said = self._said(states, places, targets)
                logits, watch.peak = watch.peak - start - kept, max(most, watch.peak)
                if learns:
                    said.backward()
        except _NEEDS_NUMBERS as error:
            raise ConfigError(f"{_name(self.trunk)}: what it computes depends on numbers: {error}") from error
        if not watched.asked:
            raise ConfigError(f"{_name(self.trunk)} does not attend through transformers' interface")
        peak = watch.peak - weights + 2 * max(self._unpacked, default=0)
        apart = (watch.small.peak - small) + (watch.large.peak - large) - (watch.peak - start)
        return Cost(kept, logits, peak, peak + apart, watch.flops)

    def _said(self, states: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        """As `evaluate` of `Policy`, `ScalarModel`, `BesideTeacher` and `WithQ` ends, summed."""
        if self.scalar:
            return self.trunk.module.get_submodule("score")(states.float())[:, 0].sum()
        head, states = LMHead(self.trunk), states.index_select(0, places)
        if self._divergence is not None:
            return divergences(states, states.detach(), head, head, self._divergence).sum()
        said = token_stats(head, states, targets)[0].sum()
        if self._heads is None:
            return said
        q, q_logps, _ = self._heads.of(states, targets)
        return said + self._heads.values(states).sum() + q.sum() + q_logps.sum()


class _Watch(TorchDispatchMode):
    """Bytes of all tensors alive, the most there were, and the FLOPs of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self.small, self.large = _Level(), _Level()
        self._seen: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()

    def start(self) -> None:
        """Count from here."""
        self.peak, self.flops = self.live, 0
        self.small.peak, self.large.peak = self.small.live, self.large.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = _FLOPS.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen[storage] = size = storage.nbytes()
            self._change(size)
            weakref.finalize(storage, self._change, -size)

    def _change(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)
        (self.large if abs(size) >= MAPPED else self.small).change(size)


class _Level:
    def __init__(self) -> None:
        self.live = self.peak = 0

    def change(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)


class _Attention:
    """The layout, and whether any layer asked it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.asked = False

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        self.asked = True
        if not self._layout.goes_by_spans(query, value, options):
            with unset_fake_temporarily():  # where the blocks lie depends on numbers
                assert len(self._layout.back)
        return self._layout.attend(layer, query, key, value, options)


def _move_to_cpu(module: nn.Module) -> None:
    """Parameters and buffers, what is tied staying so; `Module.to` refuses tensors without numbers."""
    moved: dict[Tensor, Tensor] = {}
    for part in module.modules():
        for owned in (part._parameters, part._buffers):
            for name, tensor in owned.items():
                if tensor is None:
                    continue
                if tensor not in moved:
                    new = torch.empty_like(tensor, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    moved[tensor] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
                owned[name] = moved[tensor]  # type: ignore[assignment]


def _repeated(module: nn.Module) -> nn.ModuleList | None:
    """The layers of a deep model that are all of one shape."""
    for part in module.modules():
        if isinstance(part, nn.ModuleList) and len(part) > MORE:
            shapes = {str([(type(layer), name, p.shape) for name, p in layer.named_parameters()]) for layer in part}
            if len(shapes) == 1:
                return part
    return None


@contextmanager
def _first(layers: nn.ModuleList, num: int) -> Iterator[None]:
    """The model with these layers alone."""
    whole = layers._modules
    layers._modules = dict(islice(whole.items(), num))
    try:
        yield
    finally:
        layers._modules = whole


def _in_four_bits(module: nn.Module) -> list[int]:
    """Sizes of the weights that would be held in four bits."""
    named = module.named_modules()
    return [cast(Tensor, part.weight).numel() for name, part in named if name.endswith("base_layer")]


def _name(trunk: Trunk) -> str:
    return f"{type(trunk.module).__name__} ({trunk.module.config.name_or_path or 'from scratch'})"


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *args: Any, out_val: Any, **options: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_back_flops(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, out_val: Any, **options: Any
) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


_NEEDS_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLOPS: dict[Any, Any] = {
    **flop_registry,
    _CPU_ATTENTION: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back_flops,
}
