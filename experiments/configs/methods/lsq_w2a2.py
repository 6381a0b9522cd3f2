"""LSQ: trained step sizes, W/A 2/2.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lsq_w2a2.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

The step sizes of weights and activations are trained like the weights. The
first and the last layer keep full precision (in the paper: 8 bits). The authors
train on ImageNet with a cosine schedule. The weight decay, a quarter of that in
full precision, is theirs at 2 bits; the learning rate, divided by ten every 30
epochs, is ours.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'lsq',
  'LSQ, 2/2',
  changes='as LSQ, activations too',
  status='as LSQ; the first step of activations is a constant',
  bits=2,
  activation_quantizer='lsq',
  activation_bits=2,
  float_layers='(stem|head)/kernel',
  optimizer='momentum',
  weight_decay=2.5e-5,
  learning_rate=1e-2,
  epochs=90,
)
