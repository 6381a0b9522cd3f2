"""Methods that quantize a trained network and train nothing."""

from experiments.build.key import Key
from experiments.build.methods.basic import per_channel
from experiments.build.methods.declaration import (
  AfterTraining,
  Method,
  MethodParts,
)
from mq_jax import methods
from mq_jax.methods.aciq import PRIORS

_CORRECTED = Key(True, 'Correct the mean of the quantized weights.')
METHODS = {
  # PSGD prepares weights for this quantizer. A run may also train with it.
  'uniform': Method(
    lambda keys, context: MethodParts(methods.uniform(keys.bits)), ('bits',)
  ),
  'aciq': Method(
    lambda keys, context: MethodParts(
      per_channel(
        methods.aciq(
          keys.bits, prior=keys.method.prior, corrected=keys.method.corrected
        ),
        keys,
      )
    ),
    ('bits', 'per_channel'),
    {
      'prior': Key(
        'laplace',
        'Distribution that the clip assumes; range: no clip.',
        choices=PRIORS,
      ),
      'corrected': _CORRECTED,
    },
    for_trained=True,
  ),
  'lapq': Method(
    lambda keys, context: MethodParts(
      methods.clipped_uniform(keys.bits, corrected=keys.method.corrected),
      after_training=AfterTraining(
        keys.method.images,
        lambda loss, params, rules, batch: (
          methods.lapq(
            loss, params, rules, args=(batch,), sweeps=keys.method.sweeps
          ).variables
        ),
      ),
    ),
    ('bits',),
    {
      'corrected': _CORRECTED,
      'sweeps': Key(1, 'Rounds of the joint search for clips.', least=0),
      'images': Key(512, 'Training images for the loss.', least=1),
    },
    for_trained=True,
  ),
}
