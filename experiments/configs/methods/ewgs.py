"""EWGS: gradients scaled by the rounding error.

  python -m experiments.cifar \
    --config=experiments/configs/methods/ewgs.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

All layers except the first and the last are binary. δ is constant; the authors
measure it from the trace of the Hessian (`estimators.measured_deltas`). Their
recipe uses Adam.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'dorefa',
  'EWGS',
  estimator='ewgs',
  rule={'delta': 0.1},
  changes='forward as DoReFa; backward g_ste·(1 + δ sign(g)(W̃ − Ŵ))',
  published='ResNet20 W1A1 85.6 (r)',
  status='constant δ; activations in full precision; no trained range'
  ' of the weights',
  float_layers='(stem|head)/kernel',
  optimizer='adam',
  learning_rate=0.001,
  weight_decay=0.0001,
  decay_at='200 300 375',
  epochs=400,
)
