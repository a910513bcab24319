"""Low-rank adapters: what is trained instead of the weights. The only file that knows peft."""

import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, PreTrainedModel

from clew.config import Config, ConfigError

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HEAD = "score"
M = TypeVar("M", bound=PreTrainedModel)


class LoRA(Config):
    """Low-rank adapters (arXiv 2106.09685): W + alpha / rank * B A, where only A, B and a reward model's head learn."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the layers that are adapted, such as [q_proj, v_proj]; by default all linear ones but the output."""
    weights: Literal["fp32", "bf16", "nf4"] = "fp32"
    """How adapted weights are held while they are frozen. nf4 is QLoRA (arXiv 2305.14314). Needs precision bf16."""

    def check(self, precision: str) -> None:
        """Raises ConfigError for frozen weights that this precision or installation cannot use."""
        if self.weights != "fp32" and precision != "bf16":
            raise ConfigError(f"lora.weights: {self.weights} needs precision: bf16; it is {precision}")
        if self.weights == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(
                "lora.weights: nf4 needs bitsandbytes, which is not installed; pip install 'clew[qlora]', or take bf16"
            )

    def loading(self) -> dict[str, Any]:
        """What `from_pretrained` must know to hold the weights so."""
        if self.weights != "nf4":
            return {}
        four_bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=["lm_head", HEAD],
        )
        return {"quantization_config": four_bits}


class Adapter:
    """Adapters on a model that stays the object it is, all else frozen. New, they change nothing: B is zero.

    `base` is the folder or hub name that the weights came from. Raises ConfigError for targets it does not have, and
    for embeddings that are also the output layer: what one learns, merging would do to both.
    """

    def __init__(self, module: PreTrainedModel, lora: LoRA, base: str, *, seed: int) -> None:
        from peft import LoraConfig, get_peft_model

        is_scalar = HEAD in dict(module.named_children())
        self.config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
            modules_to_save=[HEAD] if is_scalar else None,
            task_type="SEQ_CLS" if is_scalar else "CAUSAL_LM",
        )
        with torch.random.fork_rng(), _quiet():
            torch.manual_seed(seed)
            try:
                self.model = cast("PeftModel", get_peft_model(module, self.config))
            except ValueError as error:
                raise ConfigError(f"lora.targets {lora.targets!r} cannot be adapted in {base}: {error}") from error
        self.config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
        self.weights = lora.weights
        ends = [module.get_input_embeddings(), module.get_output_embeddings()]
        if module.config.get_text_config().tie_word_embeddings and any(hasattr(end, "lora_A") for end in ends):
            raise ConfigError(
                f"lora.targets {lora.targets!r} adapt embeddings of {base} that are its output too; leave them out"
            )
        if lora.weights == "bf16":
            for name, part in module.named_modules():
                if name.endswith("base_layer"):
                    torch.nn.Module.to(part, torch.bfloat16)

    def save_pretrained(self, folder: Path) -> None:
        """As peft saves them, the head among them."""
        from peft import get_peft_model_state_dict

        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(self.config.target_modules, str):  # a set, whose order is another in every process
            self.config.target_modules = sorted(self.config.target_modules or [])
        found = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        save_file({name: value.contiguous() for name, value in found.items()}, folder / WEIGHTS)
        self.config.save_pretrained(str(folder))

    def load(self, folder: Path) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.model, load_file(folder / WEIGHTS))


def is_adapter(path: str) -> bool:
    """The folder holds adapters and no model."""
    return (Path(path) / CONFIG).exists() and not (Path(path) / "config.json").exists()


def base_of(path: str) -> str:
    """The folder or hub name of the full model below an adapter's folder; any other path as it is."""
    if not is_adapter(path):
        return path
    return base_of(json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])


def has_head(path: str) -> bool:
    """The folder of an adapter has a trained scalar head in it."""
    with safe_open(Path(path) / WEIGHTS, framework="pt") as file:
        return any(f".{HEAD}." in name for name in file.keys())  # noqa: SIM118


def open_weights(kind: type[M], path: str, **options: Any) -> M:
    """`kind.from_pretrained`, for the folder of an adapter too: its base, with the adapter merged into the weights."""
    if not is_adapter(path):
        return kind.from_pretrained(path, **options)
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(path)
    base = open_weights(kind, str(config.base_model_name_or_path), **options)
    config.task_type = None  # a language model's adapter may become a reward model's start
    with _quiet():
        return cast(M, PeftModel.from_pretrained(base, path, config=config).merge_and_unload())


@contextmanager
def _quiet() -> Iterator[None]:
    """peft asks transformers by old names, and warns of what it then does right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
