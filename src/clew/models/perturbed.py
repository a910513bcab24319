"""A language model with Q heads: while they are learnt, and as the policy whose logits they perturb."""

from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from clew.batch import Batch, Outputs
from clew.config import Config, ConfigError
from clew.losses.q import perturbed
from clew.models.heads import Head, token_stats
from clew.models.policy import Policy, spread
from clew.models.q_heads import FILE, QHeads
from clew.models.trunk import Trunk


class Decoding(Config):
    """How a model with Q heads answers: pi ~ pi_beta exp(beta (min Q - V))."""

    beta: float = Field(default=1.0, ge=0)
    """How much the Q heads count; 0 is the language model alone."""
    top_k: int | None = Field(default=20, ge=1)
    """Tokens that are kept, after the perturbation; null keeps all."""


class WithQ(nn.Module):
    """A language model and its Q heads as one thing to learn, on the same hidden states."""

    def __init__(self, policy: Policy, heads: QHeads, decode: Decoding) -> None:
        super().__init__()
        self.policy = policy
        self.heads = heads
        nn.Module.to(heads, policy.device)
        self.decode = decode

    @property
    def q(self) -> nn.Module:
        return self.heads.q

    @property
    def target(self) -> nn.Module:
        return self.heads.target

    def evaluate(self, batch: Batch) -> Outputs:
        """Log-probabilities of the language model alone, values, and Q of every scored token."""
        batch = batch.to(self.policy.device)
        states, tokens = self.policy.scored_states(batch), batch.tokens[batch.mask]
        logps, entropy = token_stats(self.policy.head, states, tokens)
        said = (logps, entropy, self.heads.values(states), *self.heads.of(states, tokens))
        logps, entropy, values, q, q_logps, target_q = (spread(x, batch.mask) for x in said)
        return Outputs(logps, entropy, values, q=q, q_logps=q_logps, target_q=target_q)

    def checkpoint_activations(self) -> None:
        self.policy.checkpoint_activations()

    def save(self, folder: Path) -> None:
        """A folder from which `load_policy` makes the perturbed policy, and transformers the language model alone."""
        self.policy.save(folder)
        self.heads.save(folder, self.decode.model_dump_json())

    def load(self, folder: Path) -> None:
        self.policy.load(folder)
        self.heads.load(folder)


class PerturbedPolicy(Policy):
    """A policy like any other, whose head adds beta min Q to the logits. The Q heads stay as they are."""

    def __init__(self, policy: Policy, heads: QHeads, decode: Decoding) -> None:
        super().__init__(policy.trunk, policy.tokenizer, temperature=policy.temperature)
        self.heads = heads.requires_grad_(False)
        nn.Module.to(heads, policy.device)
        self.decode = decode
        self.head = PerturbedHead(policy.head, heads, decode)

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.heads.save(folder, self.decode.model_dump_json())

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.heads.load(folder)


class PerturbedHead:
    """States to logits: [S, D] -> [S, V], the language model's with those of the Q heads."""

    def __init__(self, head: Head, heads: QHeads, decode: Decoding) -> None:
        self._head, self._heads, self._decode = head, heads, decode

    def __call__(self, states: Tensor) -> Tensor:
        logits, q = self._head(states), self._heads.smaller_target(states)
        return perturbed(logits, q.to(logits.dtype), beta=self._decode.beta, top_k=self._decode.top_k)


def with_q_heads(policy: Policy, path: str) -> Policy:
    """Perturbed, where the folder has Q heads; any other as it is."""
    if not (Path(path) / FILE).exists():
        return policy
    heads, about = QHeads.saved(Path(path))
    return PerturbedPolicy(policy, heads, Decoding.model_validate_json(about))


def alone(policy: Policy) -> Policy:
    """The language model without Q heads."""
    return Policy(policy.trunk, policy.tokenizer) if isinstance(policy, PerturbedPolicy) else policy


def new_heads(trunk: Trunk, *, width: int | None, seed: int) -> QHeads:
    """For this language model, drawn from `seed`, with twice its width when `width` is absent.

    Raises ConfigError for a model whose head cannot be called apart, so that its hidden states are not to be had.
    """
    output = trunk.module.get_output_embeddings()
    if trunk.native or output is None:
        raise ConfigError(
            f"{trunk.module.name_or_path}: Q heads read the states below the output layer, and this model's output "
            "layer cannot be called apart from it; take a model of another architecture"
        )
    vocab, size = output.weight.shape
    return QHeads(size, vocab, width or 2 * size, seed=seed)
