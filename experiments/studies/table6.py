"""MetaQuant's Table 6: hidden sizes and activations of MultiFC.

  python -m experiments.study --study=experiments/studies/table6.py \
    --workdir=runs/table6 --pretrained=FOLDER
"""

from experiments.study import Study, in_protocol

CELLS = (
  (1, None),
  (30, None),
  (100, None),
  (1500, None),
  (100, 'relu'),
  (100, 'tanh'),
)


def get_study() -> Study:
  """Returns ResNet20 settings; without a baseline the protocols are equal."""
  return Study(
    'Table 6: MultiFC, ResNet20, CIFAR-10, dorefa, Adam',
    {
      f'resnet20-dorefa-adam-multi_fc-{hidden}-{activation or "none"}': (
        in_protocol(
          'fair',
          optimizer='adam',
          estimator='multi_fc',
          hidden=hidden,
          estimator_activation=activation,
        )
      )
      for hidden, activation in CELLS
    },
    published='table_6',
  )
