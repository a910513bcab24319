"""What a run will need, said before it starts: the most memory in each of its phases, and the time of a step.

Nothing of a model is loaded but its configuration: `Shadow` runs one step of it, on the rows that the step would see,
with tensors that are only shapes. What it cannot know is said: how long sampled answers get (max_tokens is assumed),
and rows that an earlier stage has yet to write (max_length is).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from torch import nn

from clew.data.chat import Codec, Encoded
from clew.data.sources import Source, load_examples, without_repeats
from clew.judges.score import leaves
from clew.machine import Machine, resident
from clew.models.fresh import llama
from clew.models.shadow import Cost, Shadow
from clew.pipeline import Stage
from clew.recipes import preference, reward, sft
from clew.recipes.ask import Ask
from clew.recipes.evaluate import Evaluate
from clew.recipes.label import Label
from clew.recipes.preference import Preference
from clew.recipes.pretrain import Pretrain
from clew.recipes.reward import RewardConfig
from clew.recipes.rl import RL
from clew.recipes.sft import SFT
from clew.workload import Busiest, Read, Rows, Workload


class Phase(NamedTuple):
    """What is in memory at once, in bytes by kind."""

    name: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass
class Plan:
    """Of one stage."""

    name: str
    recipe: str
    phases: list[Phase]
    seconds: dict[str, float]
    """Of a step, by phase; "once": before the first step."""
    steps: int | None
    about: list[str] = field(default_factory=list[str])

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def step_seconds(self) -> float:
        return sum(taken for name, taken in self.seconds.items() if name != "once")


def plan(stage: Stage, machine: Machine, earlier: Sequence[Stage] = ()) -> Plan | None:
    """None for a stage that loads no model. Raises ConfigError for what cannot be planned, as a run would fail."""
    planner = PLANNERS.get(type(stage.config))
    return planner(_Stage(stage, machine, earlier)) if planner else None


class _Stage(Workload):
    """A stage's workload on a machine."""

    def __init__(self, stage: Stage, machine: Machine, earlier: Sequence[Stage]) -> None:
        super().__init__(stage, earlier)
        self.machine = machine

    def libraries(self) -> dict[str, float]:
        """What the process holds before any model."""
        return {"libraries": resident()} if self.machine.is_cpu else {}

    def learnt(self, cost: Cost) -> dict[str, float]:
        """What comes and goes with a pass, forward and backward."""
        gradients = cost.peak - cost.kept - cost.logits
        return {"activations": cost.kept, "logits": cost.logits, "gradients": gradients, **self.heap(cost)}

    def read(self, cost: Cost) -> dict[str, float]:
        """What comes and goes with a pass without gradient: no layer's activations outlive it."""
        return {"activations": cost.peak - cost.logits, "logits": cost.logits, **self.heap(cost)}

    def heap(self, cost: Cost) -> dict[str, float]:
        """What the C library keeps of freed tensors while large ones come; a GPU's allocator uses it again."""
        return {"heap": cost.held - cost.peak} if self.machine.is_cpu else {}

    def seconds(self, flops: float) -> float:
        return flops / (self.machine.flops[self.config.precision] * self.machine.share)


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


def _learning(stage: _Stage, shadow: Shadow, busiest: Busiest, others: Mapping[str, float]) -> tuple[Phase, float]:
    """The phase, beside what is there anyway, and the seconds of a step."""
    cost = shadow.learn(busiest.batch, again=busiest.again)
    updating = update_bytes(shadow, stage.machine)
    parts = stage.learnt(cost) if cost.peak >= updating else {"gradients": updating}
    seconds = stage.seconds(cost.flops * busiest.times) + update_seconds(shadow, stage.machine)
    return Phase("learning", {**others, **parts}), seconds


def _of_rows(stage: _Stage, read: Read, *, scalar: bool) -> Plan:
    """SFT, reward models and preference optimisation: rows that lie there, learnt from."""
    config = stage.config
    shadow = stage.shadow(config.model, scalar=scalar, lora=config.lora, optimiser=config.learner)
    rows = stage.rows(config.model, read)
    steps = getattr(config, "steps", None) or (rows.total and max(1, round(config.epochs * rows.total / config.batch)))
    busiest = rows.busiest(config.batch, steps or 1, config.seed, config.learner.max_tokens)
    phases, seconds, others = [], {}, {}
    if isinstance(config, Preference) and config.loss.bind(preference.LOSSES).func not in preference.REFERENCE_FREE:
        others, once = _reference(stage, shadow, rows, phases)
        seconds = {"once": once}
    own = {**stage.libraries(), "weights": float(shadow.weights), **others, "optimiser": optimiser_bytes(shadow)}
    phase, taken = _learning(stage, shadow, busiest, own)
    return _told(stage, shadow, [*phases, phase], {**seconds, "learning": taken}, steps)


def _reference(stage: _Stage, shadow: Shadow, rows: Rows, phases: list[Phase]) -> tuple[dict[str, float], float]:
    """Read once before the first step: the policy as it then is, or a model of its own, which kto asks later too."""
    config = stage.config
    reference, others = shadow, dict[str, float]()
    if config.reference is not None or (config.loss.name == "kto" and config.lora is None):
        reference = stage.shadow(config.reference or config.model, scalar=False)
        others = {"reference": float(reference.weights)}
    size = min(256, len(rows.items))
    busiest = rows.busiest(size, 1, config.seed, config.learner.max_tokens)
    cost = reference.read(busiest.batch)
    own = {**stage.libraries(), "weights": float(shadow.weights), **others}
    phases.append(Phase("reference", {**own, **stage.read(cost)}))
    passes = (rows.total or 0) / size
    return others, stage.seconds(cost.flops * busiest.times) * passes


def _pretrain(stage: _Stage) -> Plan:
    config = cast(Pretrain, stage.config)
    shadow = Shadow(llama(config.model, config.tokenizer.size), precision=config.precision,
                    checkpointing=config.learner.gradient_checkpointing)  # fmt: skip
    length = min(config.window, config.model.context - 1) + 1
    stage.about.append(f"every window full, {length} tokens; a vocabulary of {config.tokenizer.size:,}")
    rows = Rows([[Encoded([0] * length, [False] + [True] * (length - 1), False)]], None)
    busiest = rows.busiest(config.batch, 1, config.seed, config.learner.max_tokens)
    own = {**stage.libraries(), "weights": float(shadow.weights), "optimiser": optimiser_bytes(shadow)}
    phase, taken = _learning(stage, shadow, busiest, own)
    return _told(stage, shadow, [phase], {"learning": taken}, config.steps)


def _rl(stage: _Stage) -> Plan:
    config = cast(RL, stage.config)
    models = _models(stage, config)
    policy, learners = models["weights"][0], [*models["weights"], *models["critic"]]
    weights = {name: float(sum(shadow.weights for shadow in found)) for name, found in models.items() if found}
    own = {**stage.libraries(), **weights, "optimiser": sum(map(optimiser_bytes, learners))}
    rows = _rollouts(stage, config.max_tokens, config.group)
    sampling, sampled = _sampling(stage, policy, rows, config.prompts, config.group, config.max_tokens)
    budget, minibatch = config.learner.max_tokens, -(-config.prompts // config.minibatches)
    busiest = rows.busiest(config.prompts, config.steps, config.seed, budget)
    readers = [*(models["reference"] or [policy]), *models["critic"], *models["rewards"]]
    read = [reader.read(busiest.batch) for reader in readers]
    scoring = Phase("scoring", {**own, **stage.read(max(read, key=lambda cost: cost.peak))})
    update = rows.busiest(minibatch, config.steps, config.seed, budget)
    learning = [_learning(stage, learner, update, own) for learner in learners]
    most = max((phase for phase, _ in learning), key=lambda phase: phase.total)
    seconds = {
        "sampling": sampled,
        "scoring": sum(stage.seconds(cost.flops * busiest.times) for cost in read),
        "learning": sum(taken for _, taken in learning) * config.epochs * config.minibatches,
    }
    return _told(stage, policy, [Phase("sampling", {**own, **sampling}), scoring, most], seconds, config.steps)


def _models(stage: _Stage, config: RL) -> dict[str, list[Shadow]]:
    """By what their weights are: the policy's own, and the others'."""
    critic, reference = config.critic, config.reference or (None if config.lora else config.model)
    return {
        "weights": [stage.shadow(config.model, scalar=False, lora=config.lora, optimiser=config.learner)],
        "reference": [stage.shadow(reference, scalar=False)] if reference else [],
        "critic": [stage.shadow(critic.model, scalar=True, lora=critic.lora, optimiser=critic.learner)]
        if critic
        else [],
        "rewards": [stage.shadow(s.model, precision="fp32") for s in leaves(config.reward) if s.model is not None],
    }


def _rollouts(stage: _Stage, max_tokens: int, group: int) -> Rows:
    """Prompts, each with a group of answers as long as they may get."""

    def read(codec: Codec, source: Source) -> list[list[Encoded]]:
        prompts = codec.prompts(without_repeats(load_examples(source)), max_tokens)
        return [[_answered(list(p.tokens), max_tokens)] * group for p in prompts]

    rows = stage.rows(stage.config.model if hasattr(stage.config, "model") else stage.config.baseline, read)
    stage.about.append(f"answers of {max_tokens} tokens, the most that max_tokens allows")
    if len(rows.items) == 1 and rows.total is None:
        prompt = [0] * max(1, stage.config.encoding.max_length - max_tokens)
        return Rows([[_answered(prompt, max_tokens)] * group], None)
    return rows


def _answered(prompt: list[int], max_tokens: int) -> Encoded:
    return Encoded(prompt + [0] * max_tokens, [False] * len(prompt) + [True] * max_tokens, False)


def _sampling(stage: _Stage, policy: Shadow, rows: Rows, prompts: int, group: int,
              max_tokens: int) -> tuple[dict[str, float], float]:  # fmt: skip
    slots = max(group, min(stage.config.slots, group * prompts))
    longest = max(len(item[0].tokens) for item in rows.items) - max_tokens
    cache = cache_bytes(policy, slots=slots, group=group, longest=longest, max_tokens=max_tokens)
    alone = Rows([item[:1] for item in rows.items], rows.total)
    reading = policy.read(alone.busiest(slots // group, 1, stage.config.seed, 1 << 30).batch)
    logits = sampling_logits(policy, slots)
    parts = {**stage.read(reading), "cache": cache, "logits": logits}
    if stage.config.linears == "bf16":
        parts["bf16"] = half_linears(policy)
    return parts, sampling_seconds(policy, cache, prompts * group, slots, max_tokens, stage.machine)


def _asking(stage: _Stage, config: Label | Ask, prompts: int, steps: int | None) -> Plan:
    """Sampling for judges, `prompts` at once."""
    policy = stage.shadow(config.model, scalar=False)
    rows = _rollouts(stage, config.sampling.max_tokens, config.answers)
    parts, seconds = _sampling(stage, policy, rows, prompts, config.answers, config.sampling.max_tokens)
    own = {**stage.libraries(), "weights": float(policy.weights)}
    steps = steps or (rows.total and -(-rows.total // prompts))
    return _told(stage, policy, [Phase("sampling", {**own, **parts})], {"sampling": seconds}, steps)


def _label(stage: _Stage) -> Plan:
    config = cast(Label, stage.config)
    return _asking(stage, config, config.batch, None)


def _ask(stage: _Stage) -> Plan:
    config = cast(Ask, stage.config)
    return _asking(stage, config, config.prompts, 1)


def _evaluate(stage: _Stage) -> Plan:
    """The baseline stays, each policy comes and goes; judges stay."""
    config = cast(Evaluate, stage.config)
    policy = stage.shadow(config.baseline, scalar=False, precision="fp32")
    folders = [*(s.model for s in leaves(config.proxy or ()) if s.model), *config.heldout]
    judges = [stage.shadow(folder, precision="fp32") for folder in folders]
    rows = _rollouts(stage, config.max_tokens, 1)
    total = rows.total or 1
    parts, seconds = _sampling(stage, policy, rows, total, 1, config.max_tokens)
    own = {**stage.libraries(), "weights": 2.0 * policy.weights, "rewards": float(sum(j.weights for j in judges))}
    busiest = rows.busiest(min(total, len(rows.items)), 1, config.seed, config.max_batch_tokens)
    read = [reader.read(busiest.batch) for reader in (policy, policy, *judges)]
    scoring = {**own, **stage.read(max(read, key=lambda cost: cost.peak))}
    phases = [Phase("sampling", {**own, **parts}), Phase("scoring", scoring)]
    times = busiest.times * total / len(rows.items)
    taken = {"sampling": seconds, "scoring": sum(stage.seconds(cost.flops * times) for cost in read)}
    return _told(stage, policy, phases, taken, len(config.policies) + 1)


def _told(stage: _Stage, shadow: Shadow, phases: list[Phase], seconds: dict[str, float], steps: int | None) -> Plan:
    recipe = stage.stage.run.__module__.rpartition(".")[2]
    learning = (
        "" if shadow.num_trained == shadow.num_parameters else f", of which {shadow.num_trained / 1e6:,.1f} learn"
    )
    about = [f"{shadow.num_parameters / 1e6:,.1f} million parameters{learning}", *stage.about]
    return Plan(stage.stage.name, recipe, phases, seconds, steps, about)


PLANNERS: dict[type, Callable[[_Stage], Plan]] = {
    Pretrain: _pretrain,
    SFT: lambda stage: _of_rows(
        stage, lambda codec, source: [[row] for row in sft.demonstrations(source, codec)], scalar=False
    ),
    RewardConfig: lambda stage: _of_rows(
        stage, lambda codec, source: [rows for _, rows in reward.read(codec, source, stage.config)], scalar=True
    ),
    Preference: lambda stage: _of_rows(
        stage,
        lambda codec, source: [rows for _, rows in preference.arranged(codec, source, stage.config)],
        scalar=False,
    ),
    RL: _rl,
    Label: _label,
    Ask: _ask,
    Evaluate: _evaluate,
}
