"""MetaQuant's Figure 4: loss and the factor s of FCGrad over training.

  python -m experiments.study --study=experiments/studies/fig4.py \
    --workdir=runs/fig4 --pretrained=FOLDER
"""

from experiments.study import Study, in_protocol

# The paper shows three sizes without naming them.
HIDDEN = (10, 100, 1000)


def get_study() -> Study:
  """Returns ResNet20 settings of three hidden sizes."""
  return Study(
    'Figure 4: FCGrad, ResNet20, CIFAR-10, dorefa, SGD',
    {
      f'resnet20-dorefa-sgd-fc_grad-{hidden}': in_protocol(
        'fair', estimator='fc_grad', hidden=hidden
      )
      for hidden in HIDDEN
    },
    trials=1,
    paper_figures={'factor': 'figure 4'},
  )
