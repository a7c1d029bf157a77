"The latent band as its users see it: any mask, any pooling, and nothing below the noise floor."
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muni_nb.latent.gaussian import POOLINGS, Posterior, pool
from muni_nb.latent.prior import FlowPrior, flow_rate
from muni_nb.latent.subsets import SUBSETS, leave_one_out, pick_one, size_uniform
from muni_nb.nets.blocks import TimedMLP

torch.set_num_threads(1)
B, M, D = 4, 3, 2
masks = st.lists(st.lists(st.booleans(), min_size=M, max_size=M), min_size=B, max_size=B).map(torch.tensor)
seeds = st.integers(0, 2**31)
fast = settings(max_examples=40, deadline=None, derandomize=True)


def experts(seed, scale=1.0):
    torch.manual_seed(seed)
    return torch.randn(2, B, M, D) * scale


def randomness():
    return torch.randn(B, D), torch.rand(B)


@pytest.mark.parametrize("pooling", POOLINGS)
@given(mask=masks, seed=seeds, scale=st.sampled_from([0.1, 1.0, 10.0]))
@fast
def test_values_and_gradients_are_finite_for_every_mask(pooling, mask, seed, scale):
    mean, logvar = (part.requires_grad_() for part in experts(seed, scale).unbind())
    posterior = pool(mean, logvar, mask, pooling)
    z = posterior.sample(*randomness())
    value = z.sum() + posterior.log_prob(torch.randn(B, D)).sum()
    gradients = torch.autograd.grad(value, (mean, logvar))
    assert value.isfinite() and all(g.isfinite().all() for g in gradients)
    assert all((g[~mask] == 0).all() for g in gradients)


@pytest.mark.parametrize("pooling", POOLINGS)
@given(mask=masks, seed=seeds, garbage=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
@fast
def test_what_is_not_given_has_no_say(pooling, mask, seed, garbage):
    clean = experts(seed)
    dirty = torch.where(mask[..., None], clean, garbage)
    noise, pick = randomness()
    results = []
    for part in (clean, dirty):
        mean, logvar = (p.clone().requires_grad_() for p in part.unbind())
        z = pool(mean, logvar, mask, pooling).sample(noise, pick)
        results.append((z, *torch.autograd.grad(z.square().sum(), (mean, logvar))))
    for a, b in zip(*results):
        assert torch.equal(a, b)


@pytest.mark.parametrize("pooling", ["poe", "poe_prior", "hellinger"])
@given(mask=masks, seed=seeds, order=st.permutations(range(M)))
@fast
def test_order_of_modalities_does_not_matter(pooling, mask, seed, order):
    mean, logvar = experts(seed).double()
    a, b = pool(mean, logvar, mask, pooling), pool(mean[:, order], logvar[:, order], mask[:, order], pooling)
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(a.logvar, b.logvar)


@pytest.mark.parametrize("pooling", POOLINGS)
@given(seed=seeds, member=st.integers(0, M - 1))
@fast
def test_one_expert_alone_is_itself_except_beside_a_prior_expert(pooling, seed, member):
    mean, logvar = experts(seed).double()
    z = torch.randn(B, D, dtype=torch.float64)
    mask = (torch.arange(M) == member).expand(B, M)
    mean_k, logvar_k = mean[:, [member]], logvar[:, [member]]
    if pooling == "poe_prior":
        mean_k, logvar_k = mean_k / (1 + logvar_k.exp()), -torch.log1p((-logvar_k).exp())
    alone = Posterior(mean.new_zeros(B, 1), mean_k, logvar_k)
    torch.testing.assert_close(pool(mean, logvar, mask, pooling).log_prob(z), alone.log_prob(z))


@given(mask=masks, seed=seeds)
@fast
def test_subsets_stay_within_what_a_row_has(mask, seed):
    torch.manual_seed(seed)
    for rule in SUBSETS.values():
        assert not (rule(mask) & ~mask).any()
    assert ((mask.sum(1) - leave_one_out(mask).sum(1)) == mask.any(1).long()).all()
    assert (size_uniform(mask).any(1) == mask.any(1)).all()
    some = mask[mask.any(1)]
    assert some.gather(1, pick_one(some)[:, None]).all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_rate_trains_encoders_under_every_pooling(pooling):
    mean, logvar = (part.requires_grad_() for part in experts(0).unbind())
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]).bool()
    prior = FlowPrior(D, TimedMLP(D, D, width=16, depth=1))
    rate = prior.rate(pool(mean, logvar, mask, pooling), draws=8)
    assert rate.shape == (B,) and (rate > -1e-5).all()
    rate.sum().backward()
    for g in (mean.grad, logvar.grad):
        assert g.isfinite().all() and (g[~mask] == 0).all() and (g[mask] != 0).any()


def code(gap, var, n):
    "One bit in the sign of the mean of every one of D dimensions, as a posterior that is sure of itself."
    bit = torch.randint(2, (n,))
    mean = ((2 * bit - 1) * gap)[:, None].expand(n, D)
    return bit, Posterior(torch.zeros(n, 1), mean[:, None], torch.full((n, 1, D), math.log(var)))


def two_point_velocity(gap):
    """The exact velocity of the prior that this code deserves.

    Half a point mass at -gap, half at +gap in all dimensions."""
    def velocity(z_s, s):
        s = s[:, None]
        clean = gap * torch.tanh(s * gap * z_s.sum(1, keepdim=True) / (1 - s) ** 2)
        return (clean - z_s) / (1 - s)
    return velocity


def test_a_bit_above_the_floor_is_read_and_paid_for():
    torch.manual_seed(0)
    prior = FlowPrior(D, TimedMLP(D, D, width=8, depth=1))
    bit, posterior = code(gap=1.0, var=1e-12, n=20_000)
    z = prior.floored(posterior).sample(torch.randn(20_000, D), torch.rand(20_000))
    assert ((z.sum(1) > 0) == bit).all()
    rate = flow_rate(two_point_velocity(1.0), posterior, prior.max_logsnr, draws=16)
    assert abs(rate.mean() - math.log(2)) < 4 * rate.std() / 20_000**0.5


def test_a_bit_below_the_floor_cannot_be_read_and_costs_nothing():
    torch.manual_seed(0)
    prior = FlowPrior(D, TimedMLP(D, D, width=8, depth=1))
    bit, posterior = code(gap=1e-3, var=1e-12, n=20_000)
    noise, pick = torch.randn(20_000, D), torch.rand(20_000)
    unread = posterior.sample(noise, pick).sum(1) > 0
    read = prior.floored(posterior).sample(noise, pick).sum(1) > 0  # the best decoder there is
    assert (unread == bit).all()                                    # the encoder did hide a bit
    assert abs((read == bit).float().mean() - 0.5) < 0.04
    assert flow_rate(two_point_velocity(1e-3), posterior, prior.max_logsnr, draws=4).mean() < 2e-3
