"""A frozen model's log-probabilities of rows that stay the same: computed once, and kept on disk for later runs.

What is kept is found by its content: weights, rows, and all else that decides a number's last bit. So no result
depends on what the cache holds, and deleting it is safe.
"""

import hashlib
import json
import platform
import shutil
import tempfile
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from clew import __version__
from clew.batch import Batch, Model, Outputs, evaluate
from clew.data.collate import TokenRow, collate
from clew.durable import broken, seal
from clew.models.policy import Policy
from clew.models.reference import AdapterOff, Start
from clew.track import in_chunks, unheard

COMPUTATION = 1
"""Raised by whoever changes what a model says of a row, be it in the last bit: older entries are then not found."""
ENTRY = 2048
"""Items an entry: a long computation that is killed keeps what it had."""
TOGETHER = 256
"""Items collated at once."""
FILE = "logps.safetensors"

Items = Sequence[Sequence[TokenRow]]


class Remembered:
    """A frozen model that computes the log-probabilities of the same rows once.

    Example: `Remembered(reference, max_tokens=16384, cache=folder, note=run.note).row_logps([[chosen, rejected]])`

    Without `cache`, and of a model that is no `Policy`, nothing is kept on disk.
    """

    def __init__(
        self, model: Model, *, max_tokens: int, cache: Path | None = None, note: Callable[[str], None] = unheard
    ) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._folder = cache and cache / "logps"
        self._note = note
        self._known: dict[str, Tensor] = {}

    def evaluate(self, batch: Batch) -> Outputs:
        return self._model.evaluate(batch)

    def row_logps(self, items: Items) -> list[Tensor]:
        """Of every row, summed over its scored tokens: a tensor [K] an item. The note says where they came from."""
        began, found, num_read, num_computed = time.monotonic(), list[Tensor](), 0, 0
        for chunk in in_chunks(items, ENTRY, "reference log-probabilities", self._note):
            key = self._key(chunk)
            logps = self._known.get(key)
            if logps is None and (logps := self._read(key)) is not None:
                num_read += len(logps)
            if logps is None:
                logps = torch.cat(row_logps(self._model, chunk, max_tokens=self._max_tokens))
                num_computed += len(logps)
                self._keep(key, logps)
            self._known[key] = logps
            found += logps.split([len(rows) for rows in chunk])
        if num_read or num_computed:
            says = [f"{num_read:,} from the cache"] if num_read else []
            says += [f"{num_computed:,} computed in {time.monotonic() - began:.1f} s"] if num_computed else []
            self._note(f"reference log-probabilities of {num_read + num_computed:,} rows: {', '.join(says)}")
        return found

    def _key(self, items: Items) -> str:
        """Of these rows under this model."""
        digest = hashlib.sha256(b"" if self._folder is None else self._model_digest)
        for rows in items:
            digest.update(array("q", [len(rows), *(len(row.tokens) for row in rows)]).tobytes())
            for row in rows:
                digest.update(array("q", row.tokens).tobytes() + bytes(row.mask))
        return digest.hexdigest()

    @cached_property
    def _model_digest(self) -> bytes:
        """Of the weights and of how they are computed with; empty of a model that is no plain `Policy`."""
        if isinstance(self._model, AdapterOff):
            policy = self._model.policy
            learns = {name for name, p in policy.module.named_parameters() if p.requires_grad}
        elif isinstance(self._model, Policy | Start):
            policy, learns = self._model if isinstance(self._model, Policy) else self._model.policy, set[str]()
        else:
            return b""
        if type(policy) is not Policy:  # what perturbs it is not among the module's weights
            return b""
        weights = {name: x for name, x in policy.module.state_dict().items() if name not in learns}
        return _digest(weights, {**_computation(policy), "max_tokens": self._max_tokens})

    @property
    def _is_kept(self) -> bool:
        return self._folder is not None and bool(self._model_digest)

    def _read(self, key: str) -> Tensor | None:
        if not self._is_kept or self._folder is None or not (self._folder / key).exists():
            return None
        damage = broken(self._folder / key)
        if damage is None:
            return load_file(self._folder / key / FILE)["logps"]
        self._note(f"{self._folder / key} is damaged ({damage}); its log-probabilities are computed again")
        shutil.rmtree(self._folder / key, ignore_errors=True)
        return None

    def _keep(self, key: str, logps: Tensor) -> None:
        """Whole or not at all: built beside its place and renamed. An entry of a process that was faster is as good."""
        if not self._is_kept or self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="partial-", dir=self._folder) as beside:
                building = Path(beside) / key
                building.mkdir()
                save_file({"logps": logps}, building / FILE)
                seal(building)
                building.rename(self._folder / key)
        except OSError as error:
            if not (self._folder / key).exists():
                self._note(f"reference log-probabilities cannot be kept for later runs: {error}")


def row_logps(model: Model, items: Items, *, max_tokens: int) -> list[Tensor]:
    """Log-probability of every row's scored tokens together, without gradient: a tensor [K] an item."""
    found: list[Tensor] = []
    for start in range(0, len(items), TOGETHER):
        batch = collate(chunk := items[start : start + TOGETHER])
        logps = evaluate(model, batch, max_tokens=max_tokens).logps
        assert logps is not None
        found += batch.per_row(logps.cpu()).split([len(rows) for rows in chunk])
    return found


def _computation(policy: Policy) -> dict[str, Any]:
    """All but weights and rows that a log-probability's last bit may depend on."""
    config = policy.module.config.to_dict()
    there = policy.device
    return {
        "config": {name: value for name, value in config.items() if name != "_name_or_path"},
        "temperature": policy.temperature,
        "trunk": [policy.trunk.precision, policy.trunk.packed, policy.trunk.native],
        "device": torch.cuda.get_device_name(there) if there.type == "cuda" else there.type,
        "machine": [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        "matmul": torch.get_float32_matmul_precision(),
        "versions": [COMPUTATION, __version__, torch.__version__, transformers.__version__],
    }


def _digest(weights: Mapping[str, Tensor], computation: Mapping[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(computation, sort_keys=True, default=str).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
