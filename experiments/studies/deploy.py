"""Networks to deploy: ResNet20 at 1 and 2 bits, in a short training.

  python -m experiments.study --study=experiments/studies/deploy.py \
    --workdir=runs/deploy --pretrained=FOLDER
  python -m experiments.deploy --workdir=runs/deploy/runs/NAME --out=small

The training is MetaQuant under Adam for four epochs, the last at α / 10.
"""

from experiments.study import Study, in_protocol

FORWARD = {
  'bwn-1bit': {'quantizer': 'bwn', 'bits': 1},
  'dorefa-1bit': {'quantizer': 'dorefa', 'bits': 1},
  'dorefa-2bit': {'quantizer': 'dorefa', 'bits': 2},
}


def get_study() -> Study:
  """Returns one setting per quantizer and number of bits."""
  return Study(
    'Networks to deploy: four epochs from the pretrained ResNet20',
    {
      f'resnet20-{name}': in_protocol(
        'fair',
        network='resnet20',
        optimizer='adam',
        estimator='multi_fc',
        init='identity',
        epochs=4,
        decay_at='3',
        **changes,
      )
      for name, changes in FORWARD.items()
    },
    trials=1,
  )
