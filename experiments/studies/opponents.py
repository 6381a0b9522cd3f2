"""Opponents of MetaQuant under SGD: straight-through with a tuned step size.

  python -m experiments.study --study=experiments/studies/opponents.py \
    --workdir=runs/opponents --pretrained=FOLDER

FCGrad without activation is a learned step size. Its fair opponent is therefore
a straight-through rule whose step size is tuned, or learned by the
hypergradient. With k the learned scalar, the step size is α·k, and one step of
the hypergradient moves it by β = γ·α² times the inner product of two gradients;
the values of γ below give β from 1e-6 to 1e-3. A schedule that divides α by ten
also divides α·k.
"""

from ml_collections import ConfigDict

from experiments.study import Study, in_protocol

SCALAR = {'estimator': 'fc_grad', 'layers': 1, 'init': 'identity'}
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 5e-2, 1e-1, 3e-1, 1.0)


def get_study() -> Study:
  """Returns ResNet20 settings under SGD for both quantizers."""
  settings: dict[str, ConfigDict] = {}
  for quantizer in ('dorefa', 'bwn'):
    base = f'resnet20-{quantizer}-sgd'
    for alpha in RATES:
      settings[f'{base}-ste-alpha{alpha:g}'] = in_protocol(
        'fair', quantizer=quantizer, estimator='ste', learning_rate=alpha
      )
    scalar = {'quantizer': quantizer, **SCALAR}
    for gamma in (1.0, 10.0, 100.0, 1000.0):
      settings[f'{base}-hypergradient{gamma:g}'] = in_protocol(
        'fair', meta_optimizer='sgd', meta_learning_rate=gamma, **scalar
      )
    for gamma in (1e-3, 1e-2, 1e-1):
      settings[f'{base}-scalar-gamma{gamma:g}'] = in_protocol(
        'fair', meta_learning_rate=gamma, **scalar
      )
      settings[f'{base}-scalar_per_layer-gamma{gamma:g}'] = in_protocol(
        'fair', per_layer=True, meta_learning_rate=gamma, **scalar
      )
    for estimator in ('multi_fc', 'fc_grad', 'lstm_fc'):
      if (quantizer, estimator) != ('bwn', 'multi_fc'):
        settings[f'{base}-{estimator}'] = in_protocol(
          'fair', quantizer=quantizer, estimator=estimator
        )
  return Study('Opponents: ResNet20, CIFAR-10, SGD', settings, trials=3)
