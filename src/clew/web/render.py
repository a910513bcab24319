"""Texts of strangers as HTML that is safe to put on a page: Markdown, then an allow list of tags."""

import re
import unicodedata
from collections.abc import MutableMapping
from functools import lru_cache
from html import escape
from typing import Any, NamedTuple

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

MOST_SHOWN = 200_000
"""Characters sent with a task; the rest comes when it is asked for."""
MOST_MARKDOWN = 20_000
"""Longer texts are shown as they are: hostile Markdown takes time that grows with the square of its length."""


class Shown(NamedTuple):
    """A text for a page. Example: `shown("**hi**").html == "<p><strong>hi</strong></p>"`"""

    html: str
    text: str
    """As it is, to its cap."""
    words: int
    more: int
    """Characters after the cap."""
    invisible: int
    """Characters that hide or reorder others."""


def shown(text: str, *, whole: bool = False) -> Shown:
    """A text of any length and malice; `whole` lifts the cap."""
    cut = text if whole else text[:MOST_SHOWN]
    return Shown(safe_html(cut), cut, len(text.split()), len(text) - len(cut), len(INVISIBLE.findall(cut)))


@lru_cache(maxsize=2048)
def safe_html(text: str) -> str:
    """Markdown as HTML of the tags in ALLOWED; what would be invisible is named instead of put there."""
    text = text.replace("\x00", "\ufffd")
    if len(text) > MOST_MARKDOWN:
        return f"<pre>{_visible(text)}</pre>"
    return nh3.clean(MARKDOWN.render(text), **ALLOWED)


def plain_html(text: str) -> str:
    """One line without Markdown: names, labels, reasons."""
    return _visible(text)


def _visible(text: str) -> str:
    """Escaped, with what hides or reorders text named in its place."""
    return INVISIBLE.sub(_name, escape(text))


def _name(match: re.Match[str]) -> str:
    character = match.group()
    name = SHORT.get(character) or f"U+{ord(character):04X}"
    title = unicodedata.name(character, "control character")
    return f'<span class="invisible" title="{escape(title)}">{name}</span>'


def _text(
    self: RendererHTML, tokens: list[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    return _visible(tokens[index].content)


def _code(
    self: RendererHTML, tokens: list[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    return f"<code>{_visible(tokens[index].content)}</code>"


def _block(
    self: RendererHTML, tokens: list[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    return f"<pre><code>{_visible(tokens[index].content)}</code></pre>\n"


def _markdown() -> MarkdownIt:
    """CommonMark with tables; HTML stays text, images are links."""
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    parser.disable(["image", "html_block", "html_inline"])
    for kind, rule in (("text", _text), ("code_inline", _code), ("code_block", _block), ("fence", _block)):
        parser.add_render_rule(kind, rule)
    return parser


INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Controls, ANSI escapes, marks and overrides of direction, spaces of no width, tags. Joiners (U+200C, U+200D) stay:
Persian, Indic scripts and emoji are written with them."""
SHORT = {"\x1b": "ESC", "\u200b": "ZWSP", "\u202e": "RLO", "\u202d": "LRO", "\ufeff": "BOM", "\u00ad": "SHY"}
MARKDOWN = _markdown()
TAGS = """a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i li ol p pre s span strong table tbody td th thead
tr ul"""
ALLOWED: dict[str, Any] = {
    "tags": set(TAGS.split()),
    "attributes": {"*": set[str](), "a": {"href"}, "span": {"title"}, "ol": {"start"}},
    "allowed_classes": {"span": {"invisible"}},
    "url_schemes": {"http", "https", "mailto"},
    "link_rel": "noopener noreferrer nofollow ugc",
    "set_tag_attribute_values": {"a": {"target": "_blank"}},
}
