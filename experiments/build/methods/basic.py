"""Methods that need a quantizer only, and the method of the base model."""

from ml_collections import ConfigDict

import mq_jax
from experiments.build.key import Key
from experiments.build.methods.declaration import Method, MethodParts
from mq_jax import methods
from mq_jax.methods import balanced


def per_channel(
  quantizer: mq_jax.Quantizer, keys: ConfigDict
) -> mq_jax.Quantizer:
  """Returns the quantizer of each filter if the key `per_channel` is set."""
  return mq_jax.per(quantizer, axes=-1) if keys.per_channel else quantizer


METHODS = {
  'none': Method(lambda keys, context: MethodParts(None), cosine=True),
  'dorefa': Method(
    lambda keys, context: MethodParts(
      mq_jax.dorefa(bits=keys.bits, clip=keys.clip or None),
      threshold=0.5 if keys.bits == 1 else None,
    ),
    ('bits', 'clip'),
  ),
  'bwn': Method(
    lambda keys, context: MethodParts(
      per_channel(
        mq_jax.bwn(
          clip=keys.clip or None, scaled_gradient=keys.scaled_gradient
        ),
        keys,
      ),
      threshold=0.0,
    ),
    ('per_channel', 'clip', 'scaled_gradient'),
  ),
  'binary': Method(
    lambda keys, context: MethodParts(
      methods.binary(), post_update=methods.clip_weights, threshold=0.0
    )
  ),
  'twn': Method(
    lambda keys, context: MethodParts(
      methods.twn(threshold=keys.method.threshold)
    ),
    options={
      'threshold': Key(0.7, 'Threshold as a multiple of mean |W|.', least=0)
    },
  ),
  'ttq': Method(
    lambda keys, context: MethodParts(
      methods.ttq(
        threshold=keys.method.threshold, optimizer=context.weight_optimizer
      )
    ),
    options={
      'threshold': Key(
        0.05, 'Threshold as a multiple of max |W|.', least=0, most=0.999
      )
    },
  ),
  'lsq': Method(
    lambda keys, context: MethodParts(
      methods.lsq(keys.bits, optimizer=context.weight_optimizer),
      threshold=0.0 if keys.bits == 1 else None,
    ),
    ('bits',),
  ),
  'seq': Method(
    lambda keys, context: MethodParts(methods.seq(keys.method.levels)),
    options={
      'levels': Key(4, 'Number of levels.', choices=balanced.SEQ_LEVELS)
    },
  ),
  'absmean': Method(
    lambda keys, context: MethodParts(methods.absmean(scale=keys.method.scale)),
    options={'scale': Key(1.0, 'Scale as a multiple of mean |W|.', above=0)},
  ),
  'lab': Method(
    lambda keys, context: MethodParts(
      methods.lab(decay=keys.method.decay),
      post_update=methods.clip_weights,
      threshold=0.0,
    ),
    options={'decay': Key(0.999, 'Decay of the mean of squared gradients.')},
  ),
  'lq_nets': Method(
    lambda keys, context: MethodParts(
      methods.lq_nets(keys.bits, decay=keys.method.decay),
      threshold=0.0 if keys.bits == 1 else None,
    ),
    ('bits',),
    {'decay': Key(0.9, 'Decay of the moving average of the basis.')},
  ),
}
