"""LAB: binary weights scaled by the curvature, on LABNet.

  python -m experiments.cifar \
    --config=experiments/configs/methods/lab.py

The network starts from random weights, and all its layers are binary. The loss
is the squared hinge, images are neither cropped nor mirrored, and accuracy is
that on 5,000 training images.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'lab',
  'LAB',
  changes='forward α·sign(W), α weighted by the curvature; backward g_hat;'
  ' clip',
  published='LABNet 89.50',
  status='images are not whitened',
  network='labnet',
  head_norm=True,
  pretrain_epochs=0,
  holdout=5000,
  loss='squared_hinge',
  augment=False,
  batch_size=50,
  optimizer='adam',
  learning_rate=0.03,
  decay_every=15,
  decay_factor=0.5,
  epochs=200,
)
