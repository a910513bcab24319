"""What both sides of the golden vectors share: reading the inputs, writing the cases. Imports torch only."""

import json
import platform
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Inputs = Mapping[str, Tensor]
COMMAND = "python -m tools.parity record FOLDER"


def read_inputs(file: Path) -> dict[str, Inputs]:
    """Every set of inputs by name: float64 and bool tensors."""
    sets = json.loads(file.read_text())["sets"]
    return {name: {key: as_tensor(x) for key, x in content.items()} for name, content in sets.items()}


def as_tensor(numbers: Any) -> Tensor:
    found = torch.tensor(numbers)
    return found if found.dtype == torch.bool else torch.tensor(numbers, dtype=torch.float64)


def with_gradient(loss_of: Callable[[Tensor], Tensor], at: Tensor) -> dict[str, Tensor]:
    """A scalar loss and its gradient at `at`."""
    leaf = at.clone().requires_grad_()
    loss = loss_of(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return {"loss": loss.detach(), "gradient": gradient}


def case(
    name: str, inputs: str, code: Callable[..., Any], outputs: Mapping[str, Tensor], **options: Any
) -> dict[str, Any]:
    """One golden vector: what the peer's `code`, called with `options`, makes of the set `inputs`."""
    return {
        "name": name,
        "inputs": inputs,
        "code": f"{code.__module__.replace('.', '/')}.py::{code.__qualname__}",
        "options": options,
        "dtype": str(next(iter(outputs.values())).dtype).removeprefix("torch."),
        "outputs": {key: x.tolist() for key, x in outputs.items()},
    }


Maker = Callable[[str, Inputs], list[dict[str, Any]]]


def write_cases(peer: str, makers: Mapping[str, tuple[Maker, ...]]) -> None:
    """From the inputs, the command line's first argument, to the cases, its second; `makers` go by kind of input."""
    source, target = map(Path, sys.argv[1:])
    cases = [
        entry
        for name, x in read_inputs(source).items()
        for make in makers.get(name.split("/")[0], ())
        for entry in make(name, x)
    ]
    versions = {"python": platform.python_version(), "torch": torch.__version__, peer: version(peer)}
    write_lines(target, {"peer": peer, "command": COMMAND, "versions": versions}, "cases", cases)


def write_lines(file: Path, head: Mapping[str, Any], key: str, lines: Any) -> None:
    """JSON with one line for each entry of `lines`, a list or a mapping, so that a change shows where it is."""
    if isinstance(lines, dict):
        body = ",\n".join(f"{json.dumps(name)}: {json.dumps(content)}" for name, content in lines.items())
        body = f"{{\n{body}\n}}"
    else:
        body = "[\n" + ",\n".join(json.dumps(entry) for entry in lines) + "\n]"
    file.write_text(f'{json.dumps(head)[:-1]},\n"{key}": {body}}}\n')
