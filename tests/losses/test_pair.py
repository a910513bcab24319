import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.pair import (
    PAIR_LOSSES,
    REFERENCE_FREE,
    PairLogps,
    apo_down,
    apo_zero,
    dpo,
    expected_loss,
    hinge,
    ipo,
    ipo_mean,
    orpo,
    robust_dpo,
    simpo,
)

# chosen ratio 0.5 over 2 tokens, rejected ratio -0.5 over 4 tokens: gap 1
PAIR = PairLogps(*(tensor([x], dtype=torch.float64) for x in (-1.0, -2.0, -1.5, -1.5, 2.0, 4.0)))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("loss", "options", "expected"),
    [
        (dpo, {"beta": 0.1}, 0.644397),  # -log sigma(0.1)
        (dpo, {"beta": 0.1, "label_smoothing": 0.1}, 0.9 * 0.644397 + 0.1 * 0.744397),
        (robust_dpo, {"beta": 0.1, "flip_rate": 0.1}, (0.9 * 0.644397 - 0.1 * 0.744397) / 0.8),
        (ipo, {"tau": 0.5}, 0.0),  # gap 1 = 1 / (2 tau)
        (ipo, {"tau": 0.1}, 16.0),  # (1 - 5)^2
        (ipo_mean, {"tau": 0.5}, (0.25 + 0.125 - 1) ** 2),
        (hinge, {"beta": 0.4}, 0.6),
        (hinge, {"beta": 2.0}, 0.0),
        (apo_zero, {"beta": 1.0}, 1 - sigma(0.5) + sigma(-0.5)),
        (apo_down, {"beta": 1.0}, sigma(0.5) + 1 - sigma(1.0)),
        (simpo, {"beta": 2.0, "margin": 1.0}, -math.log(sigma(2.0 * (-0.5 - -0.5) - 1.0))),
    ],
)
def test_values_worked_by_hand(loss, options, expected):
    assert_close(loss(PAIR, **options), tensor([expected], dtype=torch.float64), atol=1e-6, rtol=1e-6)


def test_orpo_worked_by_hand():
    # mean log-probabilities log 0.6 and log 0.3: odds 1.5 and 3/7, log odds ratio log 3.5
    pair = PairLogps(*(tensor([x]).double() for x in (2 * math.log(0.6), 3 * math.log(0.3), 0, 0, 2, 3)))
    expected = -math.log(0.6) - 0.1 * math.log(sigma(math.log(3.5)))
    assert_close(orpo(pair, lam=0.1), tensor([expected]).double())


def test_orpo_log_odds_identity_of_methods():
    # METHODS C: identity log-odds of p = exp(-0.31) is 1.0129690
    from clew.losses.pair import _log_odds

    assert float(_log_odds(tensor([-0.31]).double())) == pytest.approx(math.log(sigma_odds(math.exp(-0.31))))


def sigma_odds(p: float) -> float:
    return p / (1 - p)


def at_reference(beta: float, loss) -> tuple[float, float, float]:
    """Loss and slopes in both log-probabilities where policy and reference agree."""
    logps = tensor([[-3.0], [-3.0]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    out = loss(PairLogps(logps[0], logps[1], logps[0].detach(), logps[1].detach(), one, one), beta)
    slope = torch.autograd.grad(out.sum(), logps)[0].flatten().tolist()
    return float(out.detach()), slope[0], slope[1]


@pytest.mark.parametrize(
    ("loss", "expected"),
    # METHODS, section C: loss, d/dlog pi(chosen), d/dlog pi(rejected) at the reference, beta 0.3 or tau 0.3
    [
        (lambda p, b: dpo(p, beta=b), (math.log(2), -0.15, 0.15)),
        (lambda p, b: dpo(p, beta=b, label_smoothing=0.1), (math.log(2), -0.12, 0.12)),
        (lambda p, b: robust_dpo(p, beta=b, flip_rate=0.1), (math.log(2), -0.15 / 0.8, 0.15 / 0.8)),
        (lambda p, b: ipo(p, tau=b), (1 / (4 * 0.09), -1 / 0.3, 1 / 0.3)),
        (lambda p, b: apo_zero(p, beta=b), (1.0, -0.075, 0.075)),
        (lambda p, b: apo_down(p, beta=b), (1.0, 0.0, 0.075)),
        (lambda p, b: hinge(p, beta=b), (1.0, -0.3, 0.3)),
    ],
)
def test_table_of_methods_at_the_reference(loss, expected):
    assert at_reference(0.3, loss) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("loss", PAIR_LOSSES.values())
def test_losses_are_per_pair_and_finite_far_out(loss):
    far = PairLogps(*(tensor([-500.0, -1e-6, -3.0]).double() for _ in range(4)), *(torch.full((2, 3), 7.0).double()))
    values = loss(far)
    assert values.shape == (3,)
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("loss", [f for f in PAIR_LOSSES.values() if f not in REFERENCE_FREE])
def test_an_equal_shift_of_policy_and_reference_changes_nothing(loss):
    shifted = PAIR._replace(chosen=PAIR.chosen - 2, ref_chosen=PAIR.ref_chosen - 2)
    assert_close(loss(shifted), loss(PAIR))


@pytest.mark.parametrize("loss", REFERENCE_FREE)
def test_reference_free_losses_do_not_read_the_reference(loss):
    assert_close(loss(PAIR._replace(ref_chosen=PAIR.ref_chosen * float("nan"))), loss(PAIR))


# ipo regresses to a target and may overshoot; apo_down lowers the chosen answer too.
@pytest.mark.parametrize("loss", [f for f in PAIR_LOSSES.values() if f not in (ipo, ipo_mean, apo_down)])
def test_more_of_the_chosen_never_costs_more(loss):
    better = PAIR._replace(chosen=PAIR.chosen + 0.1)
    assert float(loss(better)) <= float(loss(PAIR))


def test_soft_labels_are_the_mean_over_votes():
    half = expected_loss(dpo, PAIR, tensor([0.75]).double())
    votes = torch.stack([dpo(PAIR), dpo(PAIR), dpo(PAIR), dpo(PAIR.swapped())]).mean(0)
    assert_close(half, votes)


def test_label_smoothing_is_a_soft_label():
    assert_close(dpo(PAIR, label_smoothing=0.2), expected_loss(dpo, PAIR, tensor([0.8]).double()))


def test_robust_dpo_is_unbiased_under_flips():
    eps = 0.2
    flipped = (1 - eps) * robust_dpo(PAIR, flip_rate=eps) + eps * robust_dpo(PAIR.swapped(), flip_rate=eps)
    assert_close(flipped, dpo(PAIR))
