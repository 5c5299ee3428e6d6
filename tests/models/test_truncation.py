import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nc_sweeps.models.truncation import Truncation


@given(st.floats(2.0, 50.0), st.floats(0.0, 1.0))
def test_truncation_is_what_algorithm_1_asks_for(radius, share):
    c0 = 1.0 + share * (radius / 2 - 1.0)
    truncation = Truncation(radius, c0)
    z = torch.linspace(-3 * radius, 3 * radius, 4001, dtype=torch.float64, requires_grad=True)
    value = truncation.value(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    z, value = z.detach(), value.detach()
    assert torch.equal(value[z.abs() <= radius], z[z.abs() <= radius])
    far = z.abs() >= 2 * radius
    torch.testing.assert_close(value[far], z[far].sign() * (radius + c0), rtol=1e-14, atol=0)
    # The derivatives of clamp at its two ends and of sign at 0 are a matter of convention.
    ends = (z == 0) | ((z.abs() - radius).abs() < 1e-9) | ((z.abs() - radius - 2 * c0).abs() < 1e-9)
    torch.testing.assert_close(truncation.slope(z)[~ends], slope[~ends], rtol=0, atol=1e-12)
    assert (value.diff() >= 0).all()
    assert truncation.slope(z).min() >= 0


def test_truncation_in_numbers():
    truncation = Truncation(radius=4.0, c0=1.0)
    # Half way, t = ½: R + 2C₀(t − t³ + t⁴/2) = 4 + 2(0.5 − 0.125 + 0.03125).
    assert float(truncation.value(torch.tensor(-5.0, dtype=torch.float64))) == pytest.approx(-4.8125, rel=1e-15)
    assert float(truncation.slope(torch.tensor(5.0, dtype=torch.float64))) == pytest.approx(0.5, rel=1e-15)
