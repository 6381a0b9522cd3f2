"""Our ablations: the choices that the paper leaves open, one at a time.

  python -m experiments.study --study=experiments/studies/ablations.py \
    --workdir=runs/ablations --pretrained=FOLDER
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.study import Study, both_protocols, in_protocol

# kernel_wise accepts only 3x3 kernels, so its opponents quantize no others.
ONLY_3X3 = r'head/kernel|.*/shortcut/kernel'
CHANGES: dict[str, dict[str, Any]] = {
  'phi_cotangent-estimator': {'phi_cotangent': 'estimator'},
  'init-identity': {'init': 'identity'},
  **{f'layers-{n}': {'layers': n} for n in (1, 2, 4)},
  **{
    f'gamma-{gamma:g}': {'meta_learning_rate': gamma}
    for gamma in (1e-4, 1e-2, 1e-1)
  },
  'gamma-decays': {'meta_decay_every': 30},
  **{f'meta_every-{n}': {'meta_every': n} for n in (5, 20)},
  **{f'meta_stop-{n}': {'meta_stop': n} for n in (1, 5, 30)},
  'reapply': {'reapply': True},
}
# Usual hyperparameters of each optimizer.
OTHER_OPTIMIZERS: dict[str, dict[str, Any]] = {
  'momentum': {},
  'rmsprop': {},
  'adamw': {'weight_decay': 1e-2},
  'lion': {'weight_decay': 1e-2, 'learning_rate': 1e-4},
}


def get_study() -> Study:
  """Returns variations of MultiFC and STE on ResNet20 with dorefa."""
  settings: dict[str, ConfigDict] = {}
  for optimizer in ('sgd', 'adam'):
    base = f'resnet20-dorefa-{optimizer}'
    for estimator in ('ste', 'multi_fc'):
      settings |= both_protocols(
        f'{base}-{estimator}', optimizer=optimizer, estimator=estimator
      )
    for name, change in CHANGES.items():
      settings[f'{base}-multi_fc-{name}'] = in_protocol(
        'fair', optimizer=optimizer, **change
      )
    for estimator in ('ste', 'multi_fc', 'kernel_wise'):
      settings |= both_protocols(
        f'{base}-{estimator}-only_3x3',
        optimizer=optimizer,
        estimator=estimator,
        float_layers=ONLY_3X3,
      )
    settings[f'{base}-lstm_fc-carry'] = in_protocol(
      'fair', optimizer=optimizer, estimator='lstm_fc', carry=True
    )
    for estimator in ('ste', 'fc_grad'):
      for per_channel in (False, True):
        settings |= both_protocols(
          f'resnet20-bwn-{optimizer}-{estimator}{"-per_channel" * per_channel}',
          quantizer='bwn',
          per_channel=per_channel,
          optimizer=optimizer,
          estimator=estimator,
        )
  settings['resnet20-dorefa-adam-multi_fc-differentiate'] = in_protocol(
    'fair', optimizer='adam', differentiate_refinement=True, eps_root=1e-8
  )
  settings['resnet20-dorefa-adam-multi_fc-eps_root'] = in_protocol(
    'fair', optimizer='adam', eps_root=1e-8
  )
  for optimizer, change in OTHER_OPTIMIZERS.items():
    for estimator in ('ste', 'multi_fc'):
      settings[f'resnet20-dorefa-{optimizer}-{estimator}'] = in_protocol(
        'fair', optimizer=optimizer, estimator=estimator, **change
      )
  return Study('Ablations: ResNet20, CIFAR-10', settings, trials=3)
