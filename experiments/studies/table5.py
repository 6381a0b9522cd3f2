"""MetaQuant's Table 5: the slim version against the full one.

  python -m experiments.study --study=experiments/studies/table5.py \
    --workdir=runs/table5 --pretrained=FOLDER
"""

from experiments.study import Study, in_protocol


def get_study() -> Study:
  """Returns ResNet20 settings; without a baseline the protocols are equal."""
  return Study(
    'Table 5: MetaQuant-Slim, ResNet20, CIFAR-10, dorefa, SGD',
    {
      f'resnet20-dorefa-sgd-{estimator}{"-slim" * slim}': in_protocol(
        'fair', estimator=estimator, slim=slim
      )
      for estimator in ('multi_fc', 'lstm_fc', 'fc_grad')
      for slim in (True, False)
    },
    published='table_5',
  )
