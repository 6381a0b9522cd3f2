"""BitNet b1.58: weights rounded to their mean size.

  python -m experiments.cifar \
    --config=experiments/configs/methods/bitnet.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

Weights as in BitNet b1.58, activations in full precision. The rates are ours.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'absmean',
  'BitNet b1.58, ternary',
  changes='forward −α, 0, α with α = mean|W|; backward g_hat',
  status='published for language models; activations in full'
  ' precision; rates are ours',
  optimizer='adam',
  learning_rate=0.001,
  epochs=100,
)
