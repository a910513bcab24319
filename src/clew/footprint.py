"""What the parts of a step hold in memory, and how long they take."""

from typing import NamedTuple

from torch import nn

from clew.machine import Machine
from clew.models.shadow import Shadow


class Phase(NamedTuple):
    """What is in memory at once, in bytes by kind."""

    name: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def optimiser_bytes(shadow: Shadow) -> float:
    """AdamW's two running means, float32, of every number that learns."""
    return 8.0 * shadow.num_trained


def update_bytes(shadow: Shadow, machine: Machine) -> float:
    """All gradients, and what AdamW puts beside them: nothing on a CPU, one number each on a GPU."""
    return (4.0 if machine.is_cpu else 8.0) * shadow.num_trained


def update_seconds(shadow: Shadow, machine: Machine) -> float:
    """AdamW reads a number, its gradient and two means, and writes three: bound by bandwidth."""
    return 28.0 * shadow.num_trained / machine.bandwidth


def cache_bytes(shadow: Shadow, *, slots: int, group: int, longest: int, max_tokens: int) -> float:
    """Keys and values in float32 of every layer: prompts once for their samples, and each slot's answer."""
    config = shadow.trunk.module.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    columns = min(slots, 2 * slots // group) * longest + slots * max_tokens
    return 2.0 * 4 * config.num_hidden_layers * heads * width * columns


def sampling_logits(shadow: Shadow, slots: int) -> float:
    """Logits, probabilities and one temporary of every slot, float32."""
    return 3.0 * 4 * slots * shadow.trunk.module.config.get_text_config().vocab_size


def half_linears(shadow: Shadow) -> float:
    """A second copy of the linear layers, in bfloat16, but for the output."""
    head = shadow.trunk.module.get_output_embeddings()
    linears = [m for m in shadow.trunk.module.modules() if type(m) is nn.Linear and m is not head]
    return 2.0 * sum(linear.weight.numel() for linear in linears)


def sampling_seconds(shadow: Shadow, cache: float, rollouts: int, slots: int, tokens: int, machine: Machine) -> float:
    """Each token of all slots reads every weight and half of the cache, or is bound by its products."""
    reading = (shadow.weights + cache / 2) / machine.bandwidth
    computing = 2.0 * shadow.num_parameters * slots / (machine.flops["fp32"] * machine.share)
    return tokens * -(-rollouts // slots) * max(reading, computing)
