"""LSQ: trained step sizes, W/A 2/2.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lsq_w2a2.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.pth

Both steps are trained as the weights are. First and last layer in full
precision (the authors: 8 bits). They train on ImageNet, with a cosine; a
quarter of full precision's weight decay at 2 bits is theirs, the rate, divided
by ten every 30 epochs, is ours.
"""

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe


def get_config() -> ConfigDict:
  """The recipe."""
  return recipe(
    'lsq',
    bits=2,
    activation_quantizer='lsq',
    activation_bits=2,
    float_layers='(stem|head)/kernel',
    optimizer='momentum',
    weight_decay=2.5e-5,
    learning_rate=1e-2,
    epochs=90,
  )
