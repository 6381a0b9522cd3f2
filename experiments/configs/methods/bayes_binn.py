"""BayesBiNN: a Bernoulli distribution over binary weights.

  python -m experiments.cifar \
    --config=experiments/configs/methods/bayes_binn.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers are binary. The rates are ours, and a weight decay replaces the
prior.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'bayes_binn',
  'BayesBiNN',
  changes='forward a sample of the relaxed distribution; backward its'
  ' natural gradient',
  status='rates are ours; the mean replaces samples only after training',
  optimizer='adam',
  learning_rate=0.01,
  weight_decay=0.0001,
  epochs=100,
)
