"""Quantizes and prunes networks that PSGD and SGD trained, without training.

  python -m benchmarks.psgd --networks sgd=FILE psgd=FILE zero=FILE \
    [--data_dir DIR] [--json FILE] [--figure FILE]

The files are `trained.safetensors` of runs of experiments/configs/methods/
psgd.py: the weights before quantization. `zero` is a run whose target is zero
(`--config.method.target=zero`). The figure shows the loss around the networks.
Activations of 8 bits are clipped where their squared error on training images
is least, layer by layer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mq_jax
from benchmarks import surface, table
from experiments.build import losses
from experiments.build.networks import make_network
from experiments.build.schema import default_config
from experiments.data.datasets import DATASETS
from experiments.records import torch_weights
from experiments.training.evaluation import make_evaluate
from experiments.training.initial import (
  first_images,
  fit_to_images,
  initial_variables,
)
from experiments.training.train import make_pipeline
from mq_jax import methods, selection

BITS = (8, 6, 4, 3, 2)
ACTIVATION_BITS = 8
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
QUICK: dict[str, Any] = {'holdout': 100}
# Powell's search of LAPQ computes the loss of these images some 800 times.
LAPQ_IMAGES = 128
LAPQ_BITS = (4,)


def main() -> None:
  """Prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--networks', nargs='+', required=True)
  options.add_argument('--network', default='resnet20')
  options.add_argument('--dataset', default='cifar10')
  options.add_argument('--data_dir', default='')
  options.add_argument('--holdout', type=int, default=0)
  options.add_argument('--figure', metavar='FILE', help='loss surfaces, PNG')
  args = table.parse(options, QUICK)
  config = default_config()
  config.update(
    network=args.network,
    dataset=args.dataset,
    data_dir=args.data_dir,
    holdout=args.holdout,
  )
  pipeline = make_pipeline(config)
  net = make_network(config, len(pipeline.classes))
  evaluate = make_evaluate(pipeline.evaluate, net, losses.cross_entropy)
  rounding = config.copy_and_resolve_references()
  rounding.update(
    activation_quantizer='pact',
    activation_bits=ACTIVATION_BITS,
    activation_start='measured',
  )
  rounding_net = make_network(rounding, len(pipeline.classes))
  evaluate_rounding = make_evaluate(
    pipeline.evaluate, rounding_net, losses.cross_entropy
  )
  files = dict(pair.split('=', 1) for pair in args.networks)
  rows, models = [], {}
  for name, path in files.items():
    model = torch_weights.load_any(path)
    models[name] = model
    params, stats = model.params, model.batch_stats

    def accuracy(params: Any, stats: Any = stats) -> float:
      return evaluate(params, stats)['accuracy']

    rows.append(_row(name, 'none', '', accuracy(params), params))
    for bits in BITS:
      for method, quantize in quantizers(net, pipeline, stats, bits).items():
        quantized = quantize(params)
        rows.append(
          _row(name, method, f'{bits}', accuracy(quantized), quantized)
        )
    clipped, stats = _with_clips(rounding, rounding_net, path, pipeline)
    for bits in BITS:
      quantized = _quantized(clipped, methods.uniform(bits))
      score = evaluate_rounding(quantized, stats)['accuracy']
      rows.append(
        _row(name, 'uniform', f'{bits}', score, quantized, ACTIVATION_BITS)
      )
    for sparsity in SPARSITIES:
      pruned = prune(params, sparsity)
      rows.append(_row(name, 'pruned', '', accuracy(pruned), pruned))
  figure, args.networks = args.figure, sorted(files)
  del args.figure, args.data_dir  # Paths are of no interest to readers.
  table.show(
    'Networks of PSGD and SGD after quantization or pruning without training',
    rows,
    args,
    'The weights of all layers are quantized; batch statistics are those of'
    ' training. A pruned layer lacks its smallest weights, the same fraction in'
    ' every layer.',
  )
  if figure:
    images = pipeline.evaluate.batch(0, 1000)
    surface.draw(net, models, images, figure)


def _with_clips(config: Any, net: Any, path: str, pipeline: Any) -> Any:
  """Returns the variables of a file, with measured clips of activations."""
  spec = DATASETS[config.dataset].input_spec(config)
  initial = initial_variables(config, net, spec, path)
  return fit_to_images(
    config, net, initial, lambda: first_images(pipeline.calibrate)
  )


def _row(
  name: str,
  method: str,
  bits: str,
  accuracy: float,
  params: Any,
  activation_bits: int | None = None,
) -> table.Row:
  kernels = _kernels(params).values()
  zeros = sum(int(jnp.sum(leaf == 0)) for leaf in kernels)
  size = sum(leaf.size for leaf in kernels)
  return {
    'trained by': name,
    'method': method,
    'bits': bits,
    'bits of activations': f'{activation_bits or ""}',
    'accuracy %': accuracy,
    'zero weights %': 100 * zeros / size,
  }


def _kernels(params: Any) -> dict[str, jax.Array]:
  leaves = selection.named_leaves(params)
  return {path: leaf for path, leaf in leaves.items() if leaf.ndim > 1}


def quantizers(
  net: Any, pipeline: Any, stats: Any, bits: int
) -> dict[str, Callable[[Any], Any]]:
  """Returns `(params) -> quantized params` of each method, by its name."""

  def uniform(params: Any) -> Any:
    return _quantized(params, methods.uniform(bits))

  def lapq(params: Any) -> Any:
    quantizer = methods.clipped_uniform(bits)
    batch = pipeline.calibrate.batch(0, LAPQ_IMAGES)
    sums = losses.make_evaluation(net)
    result = methods.lapq(
      lambda params, batch: sums(params, stats, batch)['loss'] / LAPQ_IMAGES,
      params,
      quantizer,
      args=(batch,),
    )
    return _quantized(params, quantizer, result.variables)

  found: dict[str, Callable[[Any], Any]] = {'uniform': uniform}
  if bits in LAPQ_BITS:
    found['lapq'] = lapq
  return found


def _quantized(params: Any, quantizer: Any, variables: Any = None) -> Any:
  """Returns the levels of every kernel; None means the first variables."""
  new = {}
  for path, leaf in _kernels(params).items():
    w = jnp.asarray(leaf)
    own = quantizer.init(w) if variables is None else variables[path]
    codes, levels = quantizer.codes(quantizer.preprocess(w, own), own)
    new[path] = mq_jax.dequantize(codes, levels)
  return selection.replace(params, selection.named_leaves(params) | new)


def prune(params: Any, sparsity: float) -> Any:
  """Sets the smallest weights of every kernel to zero.

  Args:
    params: Parameters of a network.
    sparsity: Fraction of the weights of each kernel, 0 to 1.
  """
  new = {}
  for path, leaf in _kernels(params).items():
    count = round(sparsity * leaf.size)
    order = np.argsort(np.abs(np.asarray(leaf)), axis=None, kind='stable')
    pruned = np.array(leaf)
    pruned.reshape(-1)[order[:count]] = 0
    new[path] = jnp.asarray(pruned)
  return selection.replace(params, selection.named_leaves(params) | new)


if __name__ == '__main__':
  main()
