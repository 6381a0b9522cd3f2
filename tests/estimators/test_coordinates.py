"""Tests blocks of coordinates: their layout and their backward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax.estimators import coordinates


@pytest.mark.parametrize(('blocks', 'more'), [(0, 1), (1, -1), (1, 0), (3, 5)])
def test_from_blocks_inverts_to_blocks(blocks, more):
  size = blocks * coordinates.BLOCK + more
  like = {'a': jnp.arange(size, dtype=jnp.float32), 'b': jnp.ones((2, 3))}
  blocks = coordinates.to_blocks(like)
  assert blocks.shape == coordinates.block_shape(like)
  assert blocks.size - (size + 6) < blocks.shape[1]
  back = coordinates.from_blocks(blocks, like)
  assert list(back) == list(like)
  jax.tree.map(np.testing.assert_array_equal, back, like)


def test_map_blocks_zero_cotangent_skips_block(monkeypatch):
  """Uses a function that returns NaN in the block that must be skipped."""
  monkeypatch.setattr(coordinates, 'BLOCK', 4)

  @jax.custom_vjp
  def poisoned(phi, x):
    return phi * x

  poisoned.defvjp(
    lambda phi, x: (phi * x, x),
    lambda x, c: (jnp.where(jnp.any(x == 13.0), jnp.nan, jnp.sum(c * x)), None),
  )
  blocks = jnp.arange(8.0, 20.0).reshape(3, 4)
  phi = jnp.asarray(2.0)
  _, pullback = jax.vjp(
    lambda phi: coordinates.map_blocks(poisoned, phi, blocks), phi
  )
  cotangent = jnp.zeros((3, 4)).at[2, 1].set(1.0)
  assert pullback(cotangent)[0] == 17.0
  assert pullback(-cotangent)[0] == -17.0
  assert jnp.isnan(pullback(jnp.ones((3, 4)))[0])
