"""The model that people talk to: two replies a turn."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from clew.feedback.conversations import messages
from clew.feedback.desk import Leased
from clew.feedback.records import Exchange
from clew.types import Message

Speak = Callable[[tuple[Message, ...]], tuple[str, str]]
"""Two replies to a conversation that ends with what the person said."""


class Reply:
    """Example: `Reply(lambda conversation: ("Yes.", "No."))`"""

    def __init__(self, speak: Speak) -> None:
        self._speak = speak

    def offer(self, leased: Leased, text: str, choice: int | None) -> tuple[str, str]:
        """Two replies; `choice` is the reply of the turn before that the person goes on from. Raises ValueError."""
        if leased.turns and choice is None:
            raise ValueError("choose reply 0 or 1 of the turn before; got none")
        chosen = [*(turn.choice for turn in leased.turns[:-1]), choice]
        said = [
            Exchange(user=turn.user, choice=1 if taken else 0, replies=turn.replies)
            for turn, taken in zip(leased.turns, chosen, strict=False)
        ]
        return self._speak((*messages(leased.prompt, said), Message("user", text)))


async def reply_of(request: Request) -> Reply | None:
    return request.app.state.reply


TheReply = Annotated[Reply | None, Depends(reply_of)]
