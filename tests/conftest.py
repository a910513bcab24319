"""Shared fixtures: a tiny model built here, and the real data where CLEW_DATA names them."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when numpy and torch are loaded: workers side by side must not share threads
os.environ["HF_HUB_OFFLINE"] = "1"  # no test looks a name up

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clew.models import reload

torch.set_num_threads(1)
IN_FRESH_PROCESS = reload.in_fresh_process


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What runs keep for later ones stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def reload_here():
    """Saved models are read back in this process, which spares ten seconds each time; see `fresh_process`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reload, "in_fresh_process", reload.said)
        yield


@pytest.fixture
def fresh_process(monkeypatch):
    """Saved models are read back as users have it: in a process where only transformers is at work."""
    monkeypatch.setattr(reload, "in_fresh_process", IN_FRESH_PROCESS)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that need it are skipped, visibly, where it is absent."""
    folder = os.environ.get("CLEW_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CLEW_DATA does not name the folder of real data")
    return Path(folder)


WORDS = "the a soup room was good bad lovely very not we liked it how . ? and but so it's".split()


@pytest.fixture(scope="session")
def tokenizer():
    from clew.models.fresh import Vocabulary, learn_tokenizer

    return learn_tokenizer([" ".join(WORDS)], Vocabulary(kind="word"))


@pytest.fixture
def new_module(tokenizer) -> Callable[..., torch.nn.Module]:
    """A Llama of two tiny layers over the words, its weights a function of the seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int = 0, dtype: torch.dtype = torch.float32, **options) -> torch.nn.Module:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **options,
        )
        return LlamaForCausalLM(config).to(dtype)

    return make


@pytest.fixture
def new_policy(new_module, tokenizer):
    from clew.models.load import make_policy

    return lambda seed=0, dtype=torch.float32: make_policy(new_module(seed, dtype), tokenizer)


@pytest.fixture
def model_folder(new_policy, tmp_path) -> Path:
    """A language model on disk."""
    new_policy().save(tmp_path / "lm")
    return tmp_path / "lm"
