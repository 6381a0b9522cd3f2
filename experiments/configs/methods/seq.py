"""SEQ: the balanced levels of ParetoQ.

  python -m experiments.cifar \
    --config=experiments/configs/methods/seq.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The rates are those of lsq.py; the published recipes are for language models.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'seq',
  'SEQ, 2 bits',
  changes='forward the middles of four equal parts; backward g_hat',
  status='α = max|W| instead of a trained one; rates of lsq.py',
  optimizer='momentum',
  weight_decay=2.5e-05,
  learning_rate=0.01,
  epochs=90,
)
