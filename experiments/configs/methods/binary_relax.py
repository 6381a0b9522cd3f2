"""BinaryRelax: a gradual transition from W to its binary weights.

  python -m experiments.cifar \
    --config=experiments/configs/methods/binary_relax.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

λ, the factor of the binary weights, grows by the factor 1.02 twice per epoch,
up to 1.02 to the power of 320, and is infinite in the last fifth.
"""

from experiments.configs.recipe import Recipe

get_config = Recipe(
  'binary_relax',
  'BinaryRelax',
  changes='forward between W and α·sign(W), by a growing λ; backward g_hat',
  status='recipe from memory',
  optimizer='momentum',
  weight_decay=1e-4,
  learning_rate=0.1,
  decay_at='80 140',
  epochs=200,
)
