import numpy as np
import overoptimisation
import pytest


@pytest.mark.parametrize("name", ["best of n", "PPO"])
def test_a_fit_finds_the_form_that_made_the_points(name):
    form, d = overoptimisation.FORMS[name], np.array([0.0, 0.5, 1.0, 2.0, 4.0])
    gold = np.where(d > 0, d * (0.9 - 0.2 * form(np.where(d > 0, d, 1.0))), 0.0)
    curve = [{"d": x, "gold": y, "proxy": 0.0} for x, y in zip(d.tolist(), gold.tolist(), strict=True)]
    found = overoptimisation.fitted([curve[:3], curve[3:]], form)
    assert [found[key] for key in ("alpha", "beta", "r2")] == pytest.approx([0.9, 0.2, 1.0])
    if name == "best of n":
        assert found["highest_at"] == pytest.approx(0.9 / 0.4, abs=0.01)
