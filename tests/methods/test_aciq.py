"""Tests ACIQ: its published clips and its bias correction."""

import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import methods
from tests.methods import common

pytestmark = pytest.mark.usefixtures('x64')


@pytest.mark.parametrize(
  ('prior', 'published'),
  [('laplace', (2.83, 3.89, 5.03)), ('normal', (1.71, 2.15, 2.55))],
)
def test_best_clip_matches_published_clips(prior, published):
  for bits, clip in zip((2, 3, 4), published, strict=True):
    assert methods.best_clip(prior, bits) == pytest.approx(clip, abs=0.01)


@pytest.mark.parametrize('prior', ['laplace', 'normal'])
def test_best_clip_minimises_integrated_error(prior):
  """Integrates rounding errors within the clip, clipping errors beyond."""
  x = np.linspace(0, 60, 2_000_001)
  if prior == 'laplace':
    density = np.exp(-x)
  else:
    density = 2 * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
  errors = {}
  best = methods.best_clip(prior, 3)
  for alpha in best * np.array([0.97, 1.0, 1.03]):
    beyond = np.where(x > alpha, (x - alpha) ** 2, 0) * density
    errors[alpha] = np.trapezoid(beyond, x) + alpha**2 / (3 * 4**3)
  assert min(errors, key=errors.get) == pytest.approx(best)


@pytest.mark.parametrize('per_channel', [True, False])
@pytest.mark.parametrize('prior', ['laplace', 'normal', 'range'])
def test_aciq_levels_span_clips(prior, per_channel):
  w = np.asarray(common.weight(1, (3, 3, 20, 4))) * [1.0, 3.0, 0.1, 1.0]
  quantizer = methods.aciq(3, prior=prior, corrected=False)
  if per_channel:
    quantizer = mq_jax.per(quantizer, axes=-1)
  w_hat = common.values(quantizer, jnp.asarray(w), ())
  _, table = quantizer.codes(jnp.asarray(w), ())
  if per_channel:
    parts = [(w_hat[..., c], w[..., c], table[0, 0, 0, c]) for c in range(4)]
  else:
    parts = [(w_hat, w, table)]
  for part, weights, levels in parts:
    assert set(np.unique(part)) <= set(np.asarray(levels))
    assert len(levels) == 8
    assert np.min(np.abs(levels)) == 0
    if prior == 'range':
      step = (weights.max() - weights.min()) / 7
      # Half a step from rounding the weight, and half from rounding the zero.
      assert np.max(np.abs(part - weights)) <= step
    else:
      laplace = prior == 'laplace'
      deviations = np.abs(weights - weights.mean())
      scale = np.mean(deviations) if laplace else weights.std()
      reach = 2 * methods.best_clip(prior, 3) * scale
      assert float(np.ptp(levels)) == pytest.approx(reach, rel=1e-9)


@pytest.mark.parametrize('per_channel', [True, False])
def test_aciq_correction_keeps_mean_and_deviation(per_channel):
  w = common.weight(2, (3, 3, 20, 4)) + jnp.array([[[[0.0, 0.3, -1.0, 2.0]]]])
  quantizer = methods.aciq(2)
  if per_channel:
    quantizer = mq_jax.per(quantizer, axes=-1)
  w_hat = common.values(quantizer, jnp.asarray(w), ())
  axes = (0, 1, 2) if per_channel else None
  np.testing.assert_allclose(
    w_hat.mean(axis=axes), np.mean(w, axis=axes), rtol=1e-9, atol=1e-12
  )
  np.testing.assert_allclose(
    w_hat.std(axis=axes), np.std(w, axis=axes), rtol=1e-9
  )


def test_aciq_channel_of_one_value_is_exact():
  w = jnp.ones((2, 2, 3)).at[..., 1].set(0.0)
  w_hat = common.values(mq_jax.per(methods.aciq(2), axes=-1), w, ())
  np.testing.assert_allclose(w_hat, w)


def test_aciq_invalid_arguments_raise():
  with pytest.raises(ValueError, match='bits=0'):
    methods.aciq(0)
  with pytest.raises(ValueError, match="prior='cauchy'"):
    methods.aciq(2, prior='cauchy')
  with pytest.raises(ValueError, match="prior='range' must be one of"):
    methods.best_clip('range', 2)
