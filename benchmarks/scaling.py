"""Predicts the cost of a step by the model of docs/performance.md.

  python -m benchmarks.scaling [--json FILE]

The command does arithmetic only. `tests/benchmarks` compares the model with the
operations of the traced train step.
"""

from typing import NamedTuple

from benchmarks import table

GB = 1e9


class Model(NamedTuple):
  """A network and its training.

  Attributes:
    name: Name in the table.
    weights: Number N of quantized weights.
    leaves: Number L of their arrays.
    network: FLOPs of the forward and backward pass per step.
  """

  name: str
  weights: float
  leaves: int
  network: float


# A multiplication and its addition are 2 FLOPs; backward costs twice forward.
# ResNet18: 1.82e9 multiplications per image (He et al., 2015, Table 1); the
# transformer: 6 N FLOPs per token (Kaplan et al., 2020, section 2.1), seven
# arrays in each of 32 blocks, which are not stacked, and the head.
MODELS = (
  Model('ResNet20, CIFAR, 128 images', 270_896, 22, 3 * 128 * 2 * 40.6e6),
  Model('ResNet18, ImageNet, 256 images', 11.7e6, 21, 3 * 256 * 2 * 1.82e9),
  Model('transformer, 0.5 M tokens', 7e9, 225, 6 * 7e9 * 0.5e6),
)
ESTIMATORS = (
  'ste, fc_grad, multi_fc',
  'multi_fc, relu',
  'multi_fc, tanh',
  'multi_fc, 3 layers, tanh',
  'lstm_fc, carry=False',
  'lstm_fc',
  'lstm_fc, 32 points',
)


def estimator_flops(
  name: str, weights: float, hidden: float, leaves: int
) -> float:
  """Returns the FLOPs per step of an estimator, beyond those of the network.

  Every layer is evaluated forward, and once more for the backward pass. The
  backward pass takes a product for the layer's weights and, after the first
  layer, one for its input. The LSTM's memory is a constant, so its product has
  no gradient of the input; the new memory takes one more evaluation. On a grid
  each point is evaluated once. The interpolation, of some operations per weight
  and point, is left out, as all element-wise operations are.
  """
  n, h = weights, hidden
  return {
    'multi_fc, tanh': 12 * n * h,
    'multi_fc, 3 layers, tanh': 12 * n * h + 8 * n * h**2,
    # Without a memory only the head is a product.
    'lstm_fc, carry=False': 6 * n * h,
    'lstm_fc': 32 * n * h**2,
    'lstm_fc, 32 points': 16 * 32 * leaves * h**2,
  }.get(name, 0)


def estimator_bytes(
  name: str, weights: float, hidden: float, leaves: int
) -> float:
  """Returns the float32 bytes that an estimator keeps between steps."""
  memories = {'lstm_fc': weights, 'lstm_fc, 32 points': 32 * leaves}
  return 8 * hidden * memories.get(name, 0)


def main() -> None:
  """Prints the predictions."""
  options = table.bare_parser(__doc__)
  options.add_argument('--hidden', type=int, default=100)
  args = table.parse(options, {})
  rows = [
    _row(model, name, args.hidden) for model in MODELS for name in ESTIMATORS
  ]
  table.show(f'Predicted cost of one step, H = {args.hidden}', rows, args)


def _row(model: Model, name: str, hidden: int) -> table.Row:
  work = estimator_flops(name, model.weights, hidden, model.leaves)
  state_gb = estimator_bytes(name, model.weights, hidden, model.leaves) / GB
  return {
    'model': model.name,
    'estimator': name,
    'network TFLOP': model.network / 1e12,
    'estimator TFLOP': work / 1e12,
    'work / STE': 1 + work / model.network,
    'weights and pending gradients GB': 8 * model.weights / GB,
    'estimator state GB': state_gb,
    # The memory of a grid stays in float32.
    'in bfloat16 GB': None if 'points' in name else state_gb / 2,
  }


if __name__ == '__main__':
  main()
