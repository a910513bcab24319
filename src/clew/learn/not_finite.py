"""A loss that is NaN or infinite: which row, and everything about it, for people to look at."""

import json
from typing import Any, Protocol, runtime_checkable

from clew.batch import Batch, Model
from clew.failure import Failure


class NotFinite(Failure, ArithmeticError):
    """A loss or gradient is NaN or infinite; the weights are as before the step. The evidence holds the rows."""


class Tokenizer(Protocol):
    def decode(self, token_ids: list[int]) -> Any: ...


@runtime_checkable
class Speaks(Protocol):
    """A model that brings its tokenizer."""

    tokenizer: Tokenizer


def item_at_fault(step: str, place: str, loss: float, item: Batch, model: Model) -> NotFinite:
    """The error for an item alone in its batch."""
    says = (
        f"{step}: loss {loss} or its gradient is not finite for {place}, tokens {item.tokens[0, :12].tolist()}…; "
        "nothing was changed. Lower lr or look at that row"
    )
    rows = [_row(item, b, model) for b in range(item.num_rows)]
    weights, extras = ({k: v.tolist() for k, v in found.items()} for found in (item.weights, item.extras))
    content = {"step": step, "place": place, "loss": loss, "rows": rows, "weights": weights, "extras": extras}
    return NotFinite(says, {"not_finite.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n"})


def _row(item: Batch, b: int, model: Model) -> dict[str, Any]:
    real = item.real[b]
    tokens = item.tokens[b][real].tolist()
    text = {"text": model.tokenizer.decode(tokens)} if isinstance(model, Speaks) else {}
    return {**text, "rank": int(item.rank[b]), "tokens": tokens, "mask": item.mask[b][real].tolist()}
