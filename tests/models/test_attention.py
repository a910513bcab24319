import pytest
import torch
from torch.testing import assert_close

from clew.batch import Batch
from clew.models import layout
from clew.models.attention import Options, attend_block, attend_part, merge_parts
from clew.models.layout import Layout

PLAIN = Options(None, 0.0, None, None)


def rows(lengths: list[tuple[int, int]], prompts: list[int]) -> Batch:
    """Rows of (prompt, own) tokens; rows of equal `prompts` begin alike."""
    width = max(sum(length) for length in lengths)
    tokens = torch.stack([torch.arange(width) + 1000 * p for p in prompts])
    tokens += torch.arange(len(lengths))[:, None] * (torch.arange(width) >= torch.tensor(lengths)[:, :1])
    real = torch.arange(width) < torch.tensor(lengths).sum(1, keepdim=True)
    mask = real & (torch.arange(width) >= torch.tensor(lengths)[:, :1])
    return Batch(tokens, real, mask, torch.arange(len(lengths)), torch.zeros(len(lengths), dtype=torch.long))


MIXED = rows([(9, 4), (9, 7), (9, 1), (6, 3), (12, 2), (12, 5)], [0, 0, 0, 1, 2, 2])


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("options", [PLAIN, Options(0.3, 0.0, 100, None)])
def test_spans_give_the_values_and_gradients_of_masked_blocks(key_heads, options, monkeypatch):
    found = []
    for short in (0, 1 << 30):
        monkeypatch.setattr(layout, "SHORT", short)
        laid_out = Layout.of(MIXED.tokens, MIXED.real, MIXED.mask)
        torch.manual_seed(0)
        num = len(laid_out.tokens)
        q, k, v = (torch.randn(1, h, num, 8).double().requires_grad_() for h in (4, key_heads, key_heads))
        out = laid_out.attend(0, q, k, v, options)
        grads = torch.autograd.grad((out * torch.randn(out.shape).double()).sum(), (q, k, v))
        found.append((out, *grads))
    for by_spans, by_blocks in zip(*found, strict=True):
        assert_close(by_spans, by_blocks)


def test_a_prompt_is_attended_to_by_all_its_rows_at_once():
    spans = Layout.of(MIXED.tokens, MIXED.real, MIXED.mask).spans
    assert [s[:4] for s in spans if not s.causal] == [(9, 21, 0, 9), (42, 49, 30, 42)]
    assert sum(s.end - s.start for s in spans if s.causal) == 49


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_parts_of_the_keys_merge_to_the_whole(softcap):
    torch.manual_seed(0)
    options = PLAIN._replace(softcap=softcap)
    q, k, v = (torch.randn(3, 2, num, 8, dtype=torch.float64) for num in (4, 7, 7))
    mask = torch.rand(3, 1, 4, 7) < 0.7
    mask[..., 0] = mask[..., 5] = True
    bias = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    parts = [attend_part(q, k[:, :, s], v[:, :, s], bias[..., s], options) for s in (slice(0, 5), slice(5, 7))]
    assert_close(merge_parts(*parts), attend_block(q, k, v, mask, options), check_dtype=False)


def test_a_part_with_nothing_to_attend_to_adds_nothing():
    torch.manual_seed(0)
    options = PLAIN._replace(window=3)
    q, k, v = (torch.randn(1, 2, num, 8) for num in (2, 5, 5))
    whole = attend_part(q, k, v, torch.zeros(1, 1, 2, 5), options)
    nothing = attend_part(q, k, v, torch.full((1, 1, 2, 5), -torch.inf), options)
    assert_close(merge_parts(whole, nothing), whole[0])


def test_values_narrower_than_queries_are_attended_to_in_blocks(monkeypatch):
    monkeypatch.setattr(layout, "SHORT", 0)
    laid_out = Layout.of(MIXED.tokens, MIXED.real, MIXED.mask)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, len(laid_out.tokens), width) for width in (8, 8, 6))
    wide = torch.cat([v, v[..., :2]], -1)
    assert_close(laid_out.attend(0, q, k, v, PLAIN), laid_out.attend(0, q, k, wide, PLAIN)[..., :6])
