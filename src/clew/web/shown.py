"""A task as the page gets it: what is shown, in its slots, and nothing that tells who wrote it or what is known."""

from typing import Any

from clew.feedback.conversations import Offer
from clew.feedback.desk import Leased
from clew.feedback.records import Item
from clew.types import Text
from clew.web.gate import API
from clew.web.render import Shown, shown
from clew.web.schema import Schema

Json = dict[str, Any]


def task_json(leased: Leased, schema: Schema) -> Json:
    task: Json = {
        "lease": leased.lease,
        "project": leased.project,
        "kind": leased.kind,
        "expires_ms": leased.expires,
        "mode": leased.mode,
        "prompt": {"turns": prompt_json(leased.prompt)},
        "slots": [slot_json(item) for item in leased.items],
        "schema": schema,
    }
    if leased.answer is not None:
        task["answer"] = leased.answer.model_dump(mode="json")
    if leased.turns:
        task["turns"] = [_offer_json(offer) for offer in leased.turns]
    return task


def prompt_json(prompt: Text) -> list[Json]:
    turns = [("user", prompt)] if isinstance(prompt, str) else [(m.role, m.content) for m in prompt]
    return [{"role": role, **text_json(shown(text))} for role, text in turns if text]


def slot_json(item: Item, *, whole: bool = False) -> Json:
    return {
        **text_json(shown(item.completion, whole=whole)),
        "media": f"{API}/media/{item.media}" if item.media else None,
        "steps": [text_json(shown(step)) for step in item.steps] or None,
    }


def reply_json(text: str) -> Json:
    return {**text_json(shown(text)), "media": None, "steps": None}


def text_json(text: Shown) -> Json:
    return {
        "html": text.html,
        "text": text.text,
        "words": text.words,
        "more": text.more,
        "invisible": text.invisible,
    }


def _offer_json(offer: Offer) -> Json:
    return {"user": offer.user, "choice": offer.choice, "slots": [reply_json(text) for text in offer.replies]}
