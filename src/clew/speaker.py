"""A model to talk to: a run, a folder or a hub name, with the turns of a conversation as its template wants them."""

from pathlib import Path
from typing import NamedTuple

from clew.config import ConfigError
from clew.data.chat import Codec, Encoding
from clew.data.example import Example, prompt_id
from clew.engines.local import LocalEngine
from clew.export import weights_of
from clew.models.load import is_scalar, load_policy
from clew.types import Message, Rollout, Sampling, Text


class Speaker(NamedTuple):
    """Example: `anna = speaker("runs/sft"); anna.answer(anna.asked((), "Hello"), Sampling(64), (0, 0)).text`"""

    name: str
    engine: LocalEngine
    codec: Codec

    def asked(self, past: tuple[Message, ...], line: str) -> Text:
        """The conversation so far with the line as its last turn; the line itself where there is no chat template."""
        return (*past, Message("user", line)) if self.codec.tokenizer.chat_template else line

    def answer(self, text: Text, sampling: Sampling, key: tuple[int, int]) -> Rollout:
        return self.answers(text, sampling, key, n=1)[0]

    def answers(self, text: Text, sampling: Sampling, key: tuple[int, int], *, n: int) -> list[Rollout]:
        """`n` different ones, where it samples."""
        prompt = self.codec.prompt(Example(prompt_id(text), text), sampling.max_tokens)
        assert prompt is not None, "prompts are cut, never dropped"
        return self.engine.generate([prompt], n=n, sampling=sampling, key=key)


def speaker(name: str, *, checkpoint: str = "result", template: str | None = None) -> Speaker:
    """Raises ConfigError for a model that only scores."""
    is_run = Path(name).is_dir() and not any((Path(name) / f).exists() for f in ("config.json", "adapter_config.json"))
    folder = str(weights_of(Path(name), checkpoint)) if is_run else name
    if is_scalar(folder):
        raise ConfigError(f"{name} is a reward model: it scores and does not speak; name a policy")
    policy = load_policy(folder)
    room = Encoding(template=template, max_length=policy.trunk.context or 1 << 15, truncation="truncate_prompt_left")
    return Speaker(name, LocalEngine(policy, slots=1), Codec(policy.tokenizer, room))
