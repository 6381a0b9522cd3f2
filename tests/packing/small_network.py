"""Defines a small network with quantized, unused and full-precision leaves."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import mq_jax

NHWC = ('NHWC', 'HWIO', 'NHWC')
X = jax.ShapeDtypeStruct((1, 6, 6, 2), jnp.float32)
# 6x6 pixels in 4 channels, each from 3x3 taps of 2 channels; then 4 x 3.
CONV, DENSE = 18 * 36 * 4, 12


def params():
  """Returns 1-bit, 2-bit, per-channel and full-precision leaves."""
  rng = np.random.default_rng(0)
  sign = rng.choice([-1.0, 1.0], (3, 3, 2, 4))
  sign.flat[:2] = -1, 1
  dense = np.array([[-3, 1, 1], [1, 3, -3], [-3, 3, 1], [1, 1, -3]]) * 0.25
  per_channel = np.array([0.5, 1.5]) * np.array([[1, -1], [-1, 1], [1, 1]])
  tree = {
    'conv': {'kernel': 0.5 * sign, 'bias': np.ones(4)},
    'dense': {'kernel': dense},
    'unread': {'kernel': per_channel},
    'free': {'kernel': np.ones((2, 2))},
  }
  return jax.tree.map(lambda leaf: leaf.astype(np.float32), tree)


RULES = [
  ('conv/kernel', mq_jax.bwn()),
  ('dense/kernel', mq_jax.dorefa(2)),
  ('unread/kernel', mq_jax.per(mq_jax.bwn(), axes=-1)),
]


def packed_params(**options):
  return mq_jax.pack(params(), RULES, quantized=True, **options)


def apply(params, x):
  x = lax.conv_general_dilated(
    x, params['conv']['kernel'], (1, 1), 'SAME', dimension_numbers=NHWC
  )
  x = x + params['conv']['bias'][None, None, None]
  return jnp.maximum(x, 0).mean((1, 2)) @ params['dense']['kernel']
