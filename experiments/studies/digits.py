"""A study that takes minutes and no download: handwritten digits, ResNet8.

  python -m experiments.study --study=experiments/studies/digits.py \
    --workdir=runs/digits
"""

from experiments.study import Study, in_protocol


def get_study() -> Study:
  """Returns three estimators under SGD, at two epochs."""
  return Study(
    'Digits: ResNet8, dorefa, SGD, to try studies out',
    {
      f'resnet8-dorefa-sgd-{estimator}': in_protocol(
        'fair',
        network='resnet8',
        dataset='digits',
        estimator=estimator,
        learning_rate=1e-2,
        batch_size=64,
        epochs=2,
        pretrain_epochs=2,
      )
      for estimator in ('ste', 'multi_fc', 'fc_grad')
    },
    trials=2,
  )
