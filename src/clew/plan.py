"""What a run will need, said before it starts: the most memory in each of its phases, and the time of a step.

Nothing of a model is loaded but its configuration: `Shadow` runs one step of it, on the rows that the step would see,
with tensors that are only shapes. What it cannot know is said: how long sampled answers get (max_tokens is assumed),
and rows that an earlier stage has yet to write (max_length is).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

from clew.data.chat import Codec, Encoded
from clew.data.sources import Source, load_examples, without_repeats
from clew.footprint import (
    Phase,
    cache_bytes,
    half_linears,
    optimiser_bytes,
    sampling_logits,
    sampling_seconds,
    update_bytes,
    update_seconds,
)
from clew.judges.score import RewardSource, leaves
from clew.losses.distill import forward_kl, top_k_kl
from clew.losses.pair import PAIR_LOSSES
from clew.machine import Machine, resident
from clew.models.fresh import llama
from clew.models.perturbed import new_heads
from clew.models.shadow import Cost, Shadow
from clew.pipeline import Stage
from clew.recipes import distill, preference, reward, sft
from clew.recipes.ask import Ask
from clew.recipes.cgpo import CGPO
from clew.recipes.distill import Distill
from clew.recipes.evaluate import Evaluate
from clew.recipes.ilql import ILQL
from clew.recipes.label import Label
from clew.recipes.nash import Nash
from clew.recipes.online import Online
from clew.recipes.preference import Preference
from clew.recipes.pretrain import Pretrain
from clew.recipes.reject import Reject
from clew.recipes.reward import RewardConfig
from clew.recipes.rl import RL
from clew.recipes.sft import SFT
from clew.workload import STEPS, Busiest, Read, Rows, Workload


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


def _learning(stage: _Stage, shadow: Shadow, busiest: Busiest, others: Mapping[str, float]) -> tuple[Phase, float]:
    """The phase, beside what is there anyway, and the seconds of a step."""
    cost = shadow.learn(busiest.batch, again=busiest.again)
    updating = update_bytes(shadow, stage.machine)
    parts = stage.learnt(cost) if cost.peak >= updating else {"gradients": updating}
    seconds = stage.seconds(cost.flops * busiest.times) + update_seconds(shadow, stage.machine)
    return Phase("learning", {**others, **parts}), seconds


class _Before(NamedTuple):
    """What learning from rows needs besides the model that learns."""

    phases: Sequence[Phase] = ()
    others: Mapping[str, float] = {}  # bytes that stay
    seconds: Mapping[str, float] = {}


def _of_rows(stage: _Stage, read: Read, before: Callable[[Shadow, Rows], _Before] | None = None, **kind: Any) -> Plan:
    """Rows that lie there, learnt from; `kind` is the model's."""
    config = stage.config
    shadow = _policy(stage, **kind)
    rows = stage.rows(config.model, read)
    steps = getattr(config, "steps", None) or (rows.total and max(1, round(config.epochs * rows.total / config.batch)))
    busiest = rows.busiest(config.batch, steps or 1, config.seed, config.learner.max_tokens)
    needed = before(shadow, rows) if before else _Before()
    own = {**stage.libraries(), "weights": float(shadow.weights), **needed.others, "optimiser": optimiser_bytes(shadow)}
    phase, taken = _learning(stage, shadow, busiest, own)
    return _told(stage, shadow, [*needed.phases, phase], {**needed.seconds, "learning": taken}, steps)


def _preference(stage: _Stage) -> Plan:
    config = cast(Preference, stage.config)
    is_free = config.loss.bind(preference.LOSSES).func in preference.REFERENCE_FREE

    def read(codec: Codec, source: Source) -> list[list[Encoded]]:
        return [rows for _, rows in preference.arranged(codec, source, config)]

    return _of_rows(stage, read, None if is_free else partial(_reference, stage))


def _reference(stage: _Stage, shadow: Shadow, rows: Rows) -> _Before:
    """Read once before the first step: the policy as it then is, or a model of its own, which kto asks later too."""
    config = stage.config
    reference, others = shadow, dict[str, float]()
    if config.reference is not None or (config.loss.name == "kto" and config.lora is None):
        reference = stage.shadow(config.reference or config.model, scalar=False)
        others = {"reference": float(reference.weights)}
    own = {**stage.libraries(), "weights": float(shadow.weights), **others}
    return _read_once(stage, "reference", reference, rows, own)._replace(others=others)


def _read_once(stage: _Stage, name: str, reader: Shadow, rows: Rows, own: Mapping[str, float]) -> _Before:
    """All rows, before the first step."""
    size = min(256, len(rows.items))
    busiest = rows.busiest(size, 1, stage.config.seed, stage.config.learner.max_tokens)
    cost = reader.read(busiest.batch)
    passes = (rows.total or 0) / size
    seconds = stage.seconds(cost.flops * busiest.times) * passes
    return _Before([Phase(name, {**own, **stage.read(cost)})], {}, {"once": seconds})


def _ilql(stage: _Stage) -> Plan:
    """Reward models score every answer once, and stay."""
    config = cast(ILQL, stage.config)
    judges = _judges(stage, config.reward)
    others = {"rewards": float(sum(judge.weights for judge in judges))}

    def read(codec: Codec, source: Source) -> list[list[Encoded]]:
        return [[row] for _, rows in codec.answers(load_examples(source)) for row in rows]

    def scored(shadow: Shadow, rows: Rows) -> _Before:
        own = {**stage.libraries(), "weights": float(shadow.weights), **others}
        found = [_read_once(stage, "scoring", judge, rows, own) for judge in judges]
        if not found:
            return _Before()
        worst = max((before.phases[0] for before in found), key=lambda phase: phase.total)
        return _Before([worst], others, {"once": sum(before.seconds["once"] for before in found)})

    return _of_rows(stage, read, scored, heads=partial(new_heads, width=config.width, seed=0))


def _distill(stage: _Stage) -> Plan:
    """At every step the teacher reads its rows, longer by the context, or says them."""
    config = cast(Distill, stage.config)
    is_said = config.texts == "teacher"
    shares = config.teacher is None and config.lora is not None and not is_said
    teacher = stage.shadow(config.teacher or config.model, scalar=False)
    others = {} if shares else {"teacher": float(teacher.weights)}

    def read(codec: Codec, source: Source, *, side: int = 0) -> list[list[Encoded]]:
        if is_said:
            asked = distill.asked(codec, config.model_copy(update={"data": source}))
            return [[_answered(list(both[side].tokens), config.max_tokens)] for both in asked]
        return [[both[side]] for both in distill.both_of(codec, source, config)]

    def taught(shadow: Shadow, rows: Rows) -> _Before:
        own = {**stage.libraries(), "weights": float(shadow.weights), **others, "optimiser": optimiser_bytes(shadow)}
        theirs = stage.rows(config.model, partial(read, side=1))
        busiest = theirs.busiest(config.batch, STEPS, config.seed, config.learner.max_tokens)
        cost = teacher.read(busiest.batch)
        phases = [Phase("teacher", {**own, **stage.read(cost)})]
        seconds = {"teacher": stage.seconds(cost.flops * busiest.times)}
        if is_said:
            stage.assume(f"answers of {config.max_tokens} tokens, the most that max_tokens allows")
            parts, taken = _sampling(stage, teacher, theirs, config.batch, 1, config.max_tokens)
            phases, seconds = [Phase("sampling", {**own, **parts}), *phases], {"sampling": taken, **seconds}
        return _Before(phases, others, seconds)

    divergence = forward_kl if config.top_k is None else partial(top_k_kl, k=config.top_k)
    return _of_rows(stage, read, taught, divergence=divergence)


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


class _Models(NamedTuple):
    """Of a recipe that samples."""

    learners: list[Shadow]  # the policy first
    others: dict[str, list[Shadow]]  # they are there all the time and never learn
    readers: list[Shadow]  # of what was sampled


class _Step(NamedTuple):
    """What a recipe that samples does at once."""

    prompts: int
    answers: int  # sampled for each prompt
    learnt: int  # of these, learnt from
    minibatches: int = 1
    epochs: int = 1
    steps: int = 1  # of the run, in all


def _rl(stage: _Stage) -> Plan:
    config = cast(RL, stage.config)
    policy, critic = _policy(stage), config.critic
    critics = [stage.shadow(critic.model, scalar=True, lora=critic.lora, optimiser=critic.learner)] if critic else []
    reference, rewards = _frozen(stage), _judges(stage, config.reward)
    models = _Models(
        [policy, *critics], {"reference": reference, "rewards": rewards}, [*(reference or [policy]), *critics, *rewards]
    )
    step = _Step(config.prompts, config.group, config.group, config.minibatches, config.epochs)
    return _sampled_and_learnt(stage, models, [_rollouts(stage, config.max_tokens, config.group)], [step], config.steps)


def _online(stage: _Stage) -> Plan:
    config = cast(Online, stage.config)
    policy, rewards = _policy(stage), _judges(stage, config.reward)
    is_free = config.loss.bind(PAIR_LOSSES).func in preference.REFERENCE_FREE
    begun = [stage.shadow(config.model, scalar=False)] if config.round else []
    reference = [] if is_free else begun if config.anchor == "round" else _frozen(stage)
    others = {"reference": reference, "begun": begun if config.anchor == "start" or is_free else [], "rewards": rewards}
    models = _Models([policy], others, [*([] if is_free else reference or [policy]), *rewards])
    step = _Step(config.prompts, config.answers, 2, config.minibatches, config.epochs)
    rows = _rollouts(stage, config.max_tokens, max(2, config.answers))
    return _sampled_and_learnt(stage, models, [rows], [step], config.steps)


def _reject(stage: _Stage) -> Plan:
    config = cast(Reject, stage.config)
    start, rewards = [stage.shadow(config.model, scalar=False)] if config.restart else [], _judges(stage, config.reward)
    rows = _rollouts(stage, config.max_tokens, config.answers)
    updates = config.epochs * config.minibatches
    kept = config.filter.options.get("num", 1) if config.filter.name == "best" else config.answers
    stage.about.append(f"{kept} of {config.answers} answers kept")
    prompts = config.prompts or rows.total or len(rows.items)
    step = _Step(prompts, config.answers, kept, config.minibatches, config.epochs, updates)
    models = _Models([_policy(stage)], {"start": start, "rewards": rewards}, rewards)
    return _sampled_and_learnt(stage, models, [rows], [step], config.rounds * updates)


def _nash(stage: _Stage) -> Plan:
    """The opponents' answers, and pairs as a preference model reads them, are as many rows again."""
    config = cast(Nash, stage.config)
    reference = [stage.shadow(config.reference or config.model, scalar=False)]
    average = [stage.shadow(config.model, scalar=False)] if config.opponent == "average" else []
    judges = [stage.shadow(config.preference.model, precision="fp32")] if config.preference.model else []
    others = {"reference": reference, "average": average, "preference": judges}
    rows, sides = _rollouts(stage, config.max_tokens, config.answers), 2 * config.answers
    both = Rows([item * 2 for item in rows.items], rows.total)
    models = _Models([_policy(stage)], others, [*reference, *judges])
    step = _Step(config.prompts, sides, config.answers)
    return _sampled_and_learnt(stage, models, [both], [step], config.steps)


def _cgpo(stage: _Stage) -> Plan:
    """Every task in turn, then one update from all."""
    config = cast(CGPO, stage.config)
    policy, reference, tasks = _policy(stage), _frozen(stage), list(config.tasks.values())
    rewards = [judge for task in tasks for judge in _judges(stage, task.reward)]
    readers = [*(reference or [policy]), *rewards]
    models = _Models([policy], {"reference": reference, "rewards": rewards}, readers)
    rows = [_rollouts(stage, config.max_tokens, task.answers + 1, task.data) for task in tasks]
    steps = [_Step(task.prompts, task.answers + 1, task.answers) for task in tasks]
    return _sampled_and_learnt(stage, models, rows, steps, config.steps)


def _policy(stage: _Stage, *, scalar: bool = False, **kind: Any) -> Shadow:
    config = stage.config
    return stage.shadow(config.model, scalar=scalar, lora=config.lora, optimiser=config.learner, **kind)


def _frozen(stage: _Stage) -> list[Shadow]:
    """The reference; none where it is the policy without its adapter."""
    path = stage.config.reference or (None if stage.config.lora else stage.config.model)
    return [stage.shadow(path, scalar=False)] if path else []


def _judges(stage: _Stage, rewards: Sequence[RewardSource]) -> list[Shadow]:
    return [stage.shadow(source.model, precision="fp32") for source in leaves(rewards) if source.model is not None]


def _sampled_and_learnt(
    stage: _Stage, models: _Models, tasks: Sequence[Rows], steps: Sequence[_Step], total: int
) -> Plan:
    """`tasks`: prompts with all answers that are sampled, and beside each what is done with it."""
    policy, budget, seed = models.learners[0], stage.config.learner.max_tokens, stage.config.seed
    weights = {name: float(sum(shadow.weights for shadow in found)) for name, found in models.others.items() if found}
    own = {
        **stage.libraries(), "weights": float(policy.weights),
        **({"critic": float(models.learners[1].weights)} if models.learners[1:] else {}), **weights,
        "optimiser": sum(map(optimiser_bytes, models.learners)),
    }  # fmt: skip
    phases: list[Phase] = []
    seconds: dict[str, float] = dict.fromkeys(("sampling", "scoring", "learning"), 0.0)
    for rows, step in zip(tasks, steps, strict=True):
        sampling, sampled = _sampling(stage, policy, rows, step.prompts, step.answers, stage.config.max_tokens)
        busiest = rows.busiest(step.prompts, total, seed, budget)
        read = [reader.read(busiest.batch) for reader in models.readers]
        learnt = Rows([item[: step.learnt] for item in rows.items], rows.total)
        update = learnt.busiest(-(-step.prompts // step.minibatches), total, seed, budget)
        learning = [_learning(stage, learner, update, own) for learner in models.learners]
        phases.append(Phase("sampling", {**own, **sampling}))
        if read:
            phases.append(Phase("scoring", {**own, **stage.read(max(read, key=lambda cost: cost.peak))}))
        phases += [phase for phase, _ in learning]
        seconds["sampling"] += sampled / step.steps
        seconds["scoring"] += sum(stage.seconds(cost.flops * busiest.times) for cost in read) / step.steps
        seconds["learning"] += sum(taken for _, taken in learning) * step.epochs * step.minibatches / step.steps
    names = dict.fromkeys(phase.name for phase in phases)
    worst = [max((p for p in phases if p.name == name), key=lambda phase: phase.total) for name in names]
    return _told(stage, policy, worst, {name: seconds[name] for name in names}, total)


def _rollouts(stage: _Stage, max_tokens: int, group: int, source: Source | None = None) -> Rows:
    """Prompts, each with a group of answers as long as they may get."""

    def read(codec: Codec, source: Source) -> list[list[Encoded]]:
        prompts = codec.prompts(without_repeats(load_examples(source)), max_tokens)
        return [[_answered(list(p.tokens), max_tokens)] * group for p in prompts]

    rows = stage.rows(stage.config.model if hasattr(stage.config, "model") else stage.config.baseline, read, source)
    stage.assume(f"answers of {max_tokens} tokens, the most that max_tokens allows")
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
    SFT: lambda stage: _of_rows(stage, lambda codec, source: [[row] for row in sft.demonstrations(source, codec)]),
    RewardConfig: lambda stage: _of_rows(
        stage, lambda codec, source: [rows for _, rows in reward.read(codec, source, stage.config)], scalar=True
    ),
    Preference: _preference,
    Distill: _distill,
    ILQL: _ilql,
    RL: _rl,
    Online: _online,
    Reject: _reject,
    Nash: _nash,
    CGPO: _cgpo,
    Label: _label,
    Ask: _ask,
    Evaluate: _evaluate,
}
