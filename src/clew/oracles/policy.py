"""Newer policy-gradient methods held to their published definitions, enumerated anew, and TRPO to the Fisher matrix."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from clew.batch import Batch, Term
from clew.config import Choice
from clew.experience import differs
from clew.learn.learner import Learner, Optimiser, Part
from clew.learn.trust_region import TrustRegion, conjugate_gradient, trust_region_step
from clew.losses import advantage as adv
from clew.losses.kl import k1
from clew.losses.token import advantage_weighted, apa, cispo, clipped, sequence_mean
from clew.oracles import exact
from clew.oracles.result import Result, gradient, minimise
from clew.oracles.rl import ARMS, BETA, SAYS, TIGHT, TREE, Setting, off, policy_term
from clew.oracles.worlds import TablePolicy, Tree, random_logits, total_variation
from clew.policy_gradient import Critic, PolicyUpdate, divergence, policy_objective
from clew.shaping import KL


def baselines() -> Iterator[Result]:
    """ReMax: the greedy rollout is a baseline; the best of those that were sampled is none."""
    world, k = Setting(ARMS, seed=4), 3
    target, logp = world.reward_gradient(), world.policy.sequence_logps()
    greedy = world.rewards[logp.argmax()]
    rewards = world.rewards[:, None]
    weighed = logp.detach().exp() * adv.minus_greedy(rewards, greedy.expand(len(rewards), 1))[:, 0]
    found = torch.autograd.grad((weighed * logp).sum(), world.policy.logits, retain_graph=True)[0].flatten()
    yield Result("minus_greedy (ReMax)", SAYS, off(found, target), TIGHT)
    tuples = torch.tensor(list(product(range(ARMS.vocab), repeat=k)))
    drawn = world.rewards[tuples]
    probability = logp.detach()[tuples].sum(1).exp()
    best = probability[:, None] * (drawn - drawn.max(1, keepdim=True).values) / k
    wrong = torch.autograd.grad((best * logp[tuples]).sum(), world.policy.logits)[0].flatten()
    yield Result("the group's best as a baseline", SAYS, off(wrong, target), TIGHT, wrong=True)


def dynamic_sampling() -> Iterator[Result]:
    """DAPO: the mean over groups that differ, as their share of all groups that do."""
    world, k = Setting(ARMS, seed=5), 4
    world.rewards = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    tuples = list(product(range(ARMS.vocab), repeat=k))
    probs, logp = world.policy.sequence_logps().detach().exp(), world.policy.sequence_logps()
    ours = theirs = torch.zeros((), dtype=torch.float64)
    kept = sum(float(probs[list(t)].prod()) for t in tuples if differs(world.rewards[list(t)].tolist()))
    for arms in tuples:
        rewards, chance = world.rewards[list(arms)], float(probs[list(arms)].prod())
        right = float(rewards.sum())
        if differs(rewards.tolist()):
            advantages = adv.group_normalised(rewards[None], eps=0.0)[0]
            ours = ours + chance / kept * (advantages * logp[list(arms)]).mean()
        if 0 < right < k:  # eq. 8 of the paper: some right, some wrong
            spread = (right * (k - right) / (k * (k - 1))) ** 0.5
            for arm, reward in zip(arms, rewards.tolist(), strict=True):
                theirs = theirs + chance / kept * (reward - right / k) / spread * logp[arm] / k
    found, expected = (
        torch.autograd.grad(x, world.policy.logits, retain_graph=True)[0].flatten() for x in (ours, theirs)
    )
    yield Result("dynamic sampling (DAPO)", "its published definition, enumerated", off(found, expected), 1e-9)
    wrong = off(found, world.reward_gradient())
    yield Result("DAPO taken for the gradient of E r", SAYS, wrong, TIGHT, wrong=True)


def ratios() -> Iterator[Result]:
    """Off-policy gradients of GSPO and CISPO, and where they are not that of E r."""
    world = Setting(TREE, seed=6)
    sampler = TablePolicy(TREE, world.policy.logits.detach() + 0.3 * random_logits(TREE, 7))
    batch = world.batch(sampler)
    whole = world.rewards[:, None] * batch.mask
    logp, old = world.policy.sequence_logps(), sampler.sequence_logps().detach()
    says, target = "its published definition, enumerated", world.reward_gradient()

    def ours(loss: Callable[..., Tensor], per_row: Tensor) -> Tensor:
        weighed = batch.with_weights(token=per_row[:, None] * batch.mask)
        return -gradient(world.policy, Part(weighed, policy_term(loss, whole)))

    lengths = batch.lengths()
    ratio = ((logp - old) / lengths).exp()
    objective = (ratio * world.rewards).minimum(ratio.clamp(0.8, 1.2) * world.rewards)
    gspo = world.exact_gradient(lambda _: (old.exp() * objective).sum())

    def of_sequences(logps: Tensor, old_logps: Tensor, advantages: Tensor) -> Tensor:
        return clipped(sequence_mean(logps, batch.mask), sequence_mean(old_logps, batch.mask), advantages)

    found = ours(of_sequences, old.exp() / lengths)
    yield Result("clipped, ratio of a sequence (GSPO)", says, off(found, gspo), 1e-9)
    yield Result("GSPO taken for the gradient of E r", SAYS, off(found, target), TIGHT, wrong=True)
    found = ours(lambda *given: cispo(*given, high=0.1), old.exp())
    yield Result("cispo", says, off(found, _cispo_enumerated(world, sampler, high=0.1)), 1e-9)
    yield Result("CISPO taken for the gradient of E r", SAYS, off(found, target), TIGHT, wrong=True)
    stopped = ours(lambda *given: clipped(*given, low=1.0, high=0.1), old.exp())
    wrong = off(stopped, _cispo_enumerated(world, sampler, high=0.1))
    yield Result("CISPO whose clip stops the gradient", says, wrong, 1e-9, wrong=True)


def _cispo_enumerated(world: Setting, sampler: TablePolicy, *, high: float) -> Tensor:
    """Sequence by sequence, token by token."""
    first = [sum(TREE.vocab**d for d in range(k)) for k in range(TREE.depth)]
    ours, theirs = (p.logits.log_softmax(1) for p in (world.policy, sampler))
    total = torch.zeros((), dtype=torch.float64)
    for sequence, reward in zip(TREE.sequences, world.rewards.tolist(), strict=True):
        states, code = list[int](), 0
        for depth, token in enumerate(sequence):
            states.append(first[depth] + code)
            code = code * TREE.vocab + token
        places = list(zip(states, sequence, strict=True))
        chance = sum(float(theirs[place].detach()) for place in places)
        for place in places:
            weight = min(float((ours[place] - theirs[place]).detach().exp()), 1 + high)
            total = total + torch.tensor(chance, dtype=torch.float64).exp() * weight * reward * ours[place]
    return torch.autograd.grad(total, world.policy.logits)[0].flatten()


def tokens() -> Iterator[Result]:
    """What is still to come, without a value model (REINFORCE++ before it is whitened); A2C as a case of PPO."""
    world = Setting(TREE, seed=10)
    batch = world.batch()
    kl = k1(batch.extras["old_logps"], batch.extras["ref_logps"])
    last = torch.zeros_like(kl)
    last[torch.arange(batch.num_rows), batch.mask.sum(1)] = world.rewards
    target = world.exact_gradient(lambda lp: exact.rlhf_objective(lp, world.ref, world.rewards, BETA))
    found = world.estimated(adv.to_go(last - BETA * kl, batch.mask))
    yield Result("to_go (REINFORCE++)", "the gradient of E r - beta KL", off(found, target), TIGHT)
    wrong = world.estimated(adv.to_go(last - BETA * kl, batch.mask, gamma=0.9))
    yield Result("to_go, discounted", "the gradient of E r - beta KL", off(wrong, target), TIGHT, wrong=True)

    some = torch.randn(batch.tokens.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = batch.with_extras(advantages=some * batch.mask)
    ppo, a2c = (
        gradient(world.policy, Part(given, policy_objective(_update(name), KL(coefficient=0.0), {"kl": 0.0})))
        for name in ("clipped", "reinforce")
    )
    yield Result("PPO, one epoch, one minibatch", "A2C's gradient", off(ppo, a2c), TIGHT)


def _update(name: str) -> PolicyUpdate:
    return PolicyUpdate(loss=Choice(name=name), critic=Critic(model=""))


def targets() -> Iterator[Result]:
    """APA and AWR regress on ref exp(A / beta)."""
    world = Setting(TREE, seed=13)
    best = exact.rlhf_optimum(world.ref, world.rewards, BETA)
    says = "ref exp(r / beta)"
    soft = _advantages(world, lambda logp, values: BETA * torch.logsumexp(logp + values / BETA, 0))
    plain = _advantages(world, lambda logp, values: (logp.exp() * values).sum())

    def fitted(advantages: Tensor, sign: float = 1.0) -> float:
        policy = TablePolicy(TREE, world.reference.logits.detach())
        batch = world.batch()
        taken = sign * advantages.gather(1, _codes(batch)) * batch.mask
        minimise(
            policy,
            Part(batch, lambda o, b: ([Term("p", apa(o.logps, b.extras["ref_logps"], taken, beta=BETA), "token")], [])),
        )
        return total_variation(policy.sequence_logps(), best)

    yield Result("apa, soft advantages", says, fitted(soft), 1e-6)
    yield Result("apa, ordinary advantages taken for soft ones", says, fitted(plain), 1e-6, wrong=True)
    yield Result("apa with the sign of A turned", says, fitted(soft, -1.0), 1e-6, wrong=True)

    arms = Setting(ARMS, seed=14)
    logp = arms.policy.sequence_logps().detach()
    worth = arms.rewards - (logp.exp() * arms.rewards).sum()
    goal = (logp + worth / BETA).log_softmax(0)
    for name, most, wrong in (("advantage_weighted (AWR)", 1e9, False), ("AWR, weights cut at 1", 1.0, True)):
        policy, batch = TablePolicy(ARMS), arms.batch()
        taken = worth[:, None] * batch.mask
        loss = partial(advantage_weighted, beta=BETA, most=most)
        minimise(policy, Part(batch, policy_term(loss, taken)))
        miss = total_variation(policy.sequence_logps(), goal)
        yield Result(name, "old exp(A / beta), normalised", miss, 1e-6, wrong)


def _advantages(world: Setting, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Q - V of every state and token under the reference, flat: [S V]; V of a state from its tokens' values."""
    tree, logps = world.tree, world.reference.logits.detach().log_softmax(1)
    first = [sum(tree.vocab**d for d in range(k)) for k in range(tree.depth)]
    found = torch.zeros(tree.num_states, tree.vocab, dtype=torch.float64)

    def at(prefix: tuple[int, ...]) -> Tensor:
        if prefix in tree.index:
            return world.rewards[tree.index[prefix]]
        code = 0
        for token in prefix:
            code = code * tree.vocab + token
        state = first[len(prefix)] + code
        ahead = torch.stack([at((*prefix, token)) for token in range(tree.vocab)])
        here = value(logps[state], ahead)
        found[state] = ahead - here
        return here

    at(())
    return found.flatten().expand(len(tree.sequences), -1)


def _codes(batch: Batch) -> Tensor:
    """Place of every token's state and choice in a flat [S V]."""
    return TREE.states(batch) * TREE.vocab + batch.tokens.clamp(max=TREE.vocab - 1)


def trust_regions() -> Iterator[Result]:
    """TRPO on a softmax bandit, whose Fisher matrix is diag(pi) - pi pi'."""
    arms = Tree(5, 1)
    world = Setting(arms, seed=16)
    batch = world.batch()
    probs = world.policy.sequence_logps().detach().exp()
    fisher, slope = probs.diag() - probs.outer(probs), world.reward_gradient()
    natural = torch.linalg.pinv(fisher) @ slope
    found = conjugate_gradient(lambda v: fisher @ v, slope, 10)
    yield Result("conjugate gradients", "pinv(F) g", off(found - found.mean(), natural - natural.mean()), 1e-8)

    policy = TablePolicy(arms, world.policy.logits.detach())
    learner = Learner(policy, Optimiser(), total_steps=1)
    surrogate = Part(batch, policy_term(clipped, world.rewards[:, None] * batch.mask))
    options = TrustRegion(max_kl=1e-4, damping=0.0)
    about = trust_region_step(learner, surrogate, Part(batch, divergence), options)
    moved = (policy.logits - world.policy.logits).detach().flatten()
    along = _angle(moved - moved.mean(), natural - natural.mean())
    yield Result("trust_region_step, direction", "pinv(F) g", along, 1e-4)
    yield Result(
        "plain gradient for a natural one", "pinv(F) g", _angle(slope, natural - natural.mean()), 1e-4, wrong=True
    )
    kl = float(exact.kl(world.policy.sequence_logps().detach(), policy.sequence_logps().detach()))
    yield Result("trust_region_step, length", "KL(old || new) = max_kl", abs(kl / options.max_kl - 1), 0.05)
    gained = float((policy.sequence_logps().detach().exp() * world.rewards).sum() - (probs * world.rewards).sum())
    yield Result("trust_region_step", "it improves", max(0.0, -gained) + (about["trust_region/taken"] != 1.0), 0.0)


def _angle(a: Tensor, b: Tensor) -> float:
    """1 - cosine."""
    return 1 - float(a @ b / (a.norm() * b.norm()))


def checks() -> Iterator[Result]:
    for part in (baselines, dynamic_sampling, ratios, tokens, targets, trust_regions):
        yield from part()
