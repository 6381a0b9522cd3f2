"""Methods that quantize a trained network and train nothing."""

from ml_collections import ConfigDict

from experiments.build.key import Key
from experiments.build.methods.declaration import (
  QUANTIZED,
  AfterTraining,
  Method,
  Parts,
  Run,
)
from mq_jax import methods


def _lapq(keys: ConfigDict, options: ConfigDict, run: Run) -> Parts:
  del run
  return Parts(
    methods.clipped_uniform(keys.bits, corrected=options.corrected),
    after_training=AfterTraining(
      options.images,
      lambda loss, params, rules: (
        methods.lapq(loss, params, rules, sweeps=options.sweeps).variables
      ),
    ),
  )


_CORRECTED = Key(True, 'Correct the mean of the quantized weights.')
METHODS = {
  # PSGD trains for this quantizer, so that a run may train with it too.
  'uniform': Method(
    lambda keys, options, run: Parts(methods.uniform(keys.bits)),
    (*QUANTIZED, 'bits'),
  ),
  'aciq': Method(
    lambda keys, options, run: Parts(
      methods.aciq(
        keys.bits,
        per_channel=keys.per_channel,
        prior=options.prior,
        corrected=options.corrected,
      )
    ),
    (*QUANTIZED, 'bits', 'per_channel'),
    {
      'prior': Key(
        'laplace',
        'Distribution that the clip is best for; range: no clip.',
        choices=('laplace', 'normal', 'range'),
      ),
      'corrected': _CORRECTED,
    },
    for_trained=True,
  ),
  'lapq': Method(
    _lapq,
    (*QUANTIZED, 'bits'),
    {
      'corrected': _CORRECTED,
      'sweeps': Key(1, 'Rounds of the joint search of clips.', least=0),
      'images': Key(512, 'Training images for the loss.', least=1),
    },
    for_trained=True,
  ),
}
