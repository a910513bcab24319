import re
import time

import pytest

from clew.web.render import MOST_SHOWN, plain_html, safe_html, shown

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=javascript:alert(1)>",
    "<body onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:msgbox(1))",
    "[x](file:///etc/passwd)",
    "![x](javascript:alert(1))",
    "![x](http://evil.example/track.png)",
    "[![x](http://evil.example/track.png)](http://evil.example)",
    "<http://evil.example/\" onmouseover=\"alert(1)>",
    "[x](http://a.b \"\\\" onmouseover=\\\"alert(1)\")",
    "[x]: javascript:alert(1)\n\n[x]",
    "```html\n<script>alert(1)</script>\n```",
    "```\"><script>alert(1)</script>\nx\n```",
    "`<img src=x onerror=alert(1)>`",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
    "<style>@import 'http://evil.example'</style>",
    "<link rel=stylesheet href=http://evil.example>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<base href=http://evil.example>",
    "<form action=http://evil.example><input name=password>",
    "<object data=javascript:alert(1)>",
    "<embed src=javascript:alert(1)>",
    "<video src=x onerror=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<marquee onstart=alert(1)>",
    "<template><script>alert(1)</script></template>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?xml version='1.0'?><script>alert(1)</script>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "\x00<script\x00>alert(1)</script>",
    "<a href=http://a.b style='position:fixed;inset:0'>x</a>",
    "<div class=invisible id=app data-x=1>x</div>",
    "|a|\n|-|\n|<img src=x onerror=alert(1)>|",
    "|a|\n|:-:|\n|b|",
    "# <script>alert(1)</script>",
    "> <script>alert(1)</script>",
    "1. <script>alert(1)</script>",
    "\\<script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "<a href=\"http://a.b\" target=_self rel=opener>x</a>",
]  # fmt: skip
TAG = re.compile(r"<[^>]*>")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_stranger_runs_loads_or_styles(text):
    html = safe_html(text)
    for tag in TAG.findall(html):
        name = re.match(r"</?([a-z0-9]+)", tag).group(1)
        assert (
            name
            in "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i li ol p pre s span strong table tbody td th thead tr ul".split()
        )
        assert not re.search(r"\son\w+=|style=|src=|\sid=|javascript:|data:|vbscript:|file:", tag)
        if name == "a" and "href" in tag:
            assert 'rel="noopener noreferrer nofollow ugc"' in tag
            assert 'target="_blank"' in tag


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_without_markdown_has_no_tags_at_all(text):
    assert not re.sub(r'<span class="invisible" title="[^"<>]*">[^<>]*</span>', "", plain_html(text)).count("<")


def test_markdown_of_honest_people_is_rendered():
    html = safe_html("# A\n\n**b** *c* `d`\n\n- e\n\n|f|\n|-|\n|g|\n\n[h](https://i.example)")
    for tag in ("<h1>", "<strong>", "<em>", "<code>", "<ul>", "<table>", 'href="https://i.example"'):
        assert tag in html


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\u202e", "RIGHT-TO-LEFT OVERRIDE"),
        ("\u2066", "LEFT-TO-RIGHT ISOLATE"),
        ("\u200b", "ZERO WIDTH SPACE"),
        ("\ufeff", "ZERO WIDTH NO-BREAK SPACE"),
        ("\x1b", "control character"),
        ("\x9b", "control character"),
        ("\U000e0041", "TAG LATIN CAPITAL LETTER A"),
        ("\u00ad", "SOFT HYPHEN"),
    ],
)
def test_what_hides_or_reorders_text_is_named_and_not_put_on_the_page(character, name):
    for place in ("a{}b", "`a{}b`", "```\na{}b\n```", "    a{}b"):
        html = safe_html(place.format(character))
        assert f'title="{name}"' in html
        assert character not in html
    assert character not in plain_html(f"a{character}b")
    assert shown(f"a{character}b").invisible == 1


def test_joiners_that_people_write_with_stay():
    assert "\u200d" in safe_html("👩\u200d👧 می\u200cخواهم")
    assert shown("👩\u200d👧").invisible == 0


def test_huge_text_is_cut_and_says_by_how_much():
    text = "word " * 100_000
    some = shown(text)
    assert (len(some.text), some.more) == (MOST_SHOWN, len(text) - MOST_SHOWN)
    assert shown(text, whole=True).more == 0


@pytest.mark.parametrize(
    "unit", ["[", "![", "*a ", "_a**", "> ", "- ", "|a", "`", "<", "a\n", "\\", "&#", "[a](", "~~a "]
)
def test_hostile_markdown_takes_no_more_than_a_moment(unit):
    for size in (20_000, 200_000):
        began = time.perf_counter()
        safe_html((unit * size)[:size])
        assert time.perf_counter() - began < 3
