"""Compares deployed programs with packed weights and in full precision, on CPU.

  python -m benchmarks.deployed [--quick] [--json FILE]

The network is a ResNet20 as experiments.deploy makes it, folded, with untrained
binary weights; in full precision its weights have the same values in float32.
If jax2onnx and onnxruntime are installed, ONNX Runtime runs both as well.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mq_jax
from benchmarks import measure, table
from experiments.build.networks import make_network
from experiments.common.errors import MissingError
from experiments.configs import resnet20
from experiments.data.raw_examples import Inputs
from experiments.deploy import artefact, export, packed_network
from mq_jax.models import fold_norms, fold_scales

QUICK = {'rounds': 3}
BATCHES = (1, 64)
ROUND_SECONDS = 0.3
IMAGE = (32, 32, 3)
HALF = (0.5, 0.5, 0.5)
INPUTS = Inputs(IMAGE, HALF, HALF, tuple('0123456789'))


def main() -> None:
  """Prints the table."""
  args = table.parse(table.bare_parser(__doc__), QUICK)
  packed = _network()
  full = packed._replace(params=mq_jax.unpack(packed))
  # A program in the cache would only be read.
  with tempfile.TemporaryDirectory() as folder, measure.no_cache():
    rows = [
      row
      for suffix, make in _formats().items()
      for row in _rows(
        suffix, make, pathlib.Path(folder), packed, full, args.rounds
      )
    ]
  table.show(
    'Programs of a ResNet20: median (minimum-maximum) of'
    f' {args.rounds} interleaved rounds, each batch of its own size',
    rows,
    args,
    'Weights are binary in both. Opening includes reading the file, compiling'
    ' or preparing it, and the first batch.',
  )


def _network() -> mq_jax.PackedParams:
  config = resnet20.get_config()
  net = make_network(config, 10)
  variables = jax.jit(
    lambda key: net.init(key, jnp.zeros((1, *IMAGE)), train=False)
  )(jax.random.key(0))
  w_hat = mq_jax.unpack(mq_jax.pack(variables['params'], mq_jax.bwn()))
  scales = {
    path: jnp.max(jnp.abs(leaf))
    for path, leaf in mq_jax.selection.named_leaves(w_hat).items()
    if leaf.ndim >= 2
  }
  params, batch_stats = fold_scales(w_hat, variables['batch_stats'], scales)
  return mq_jax.pack(
    fold_norms(params, batch_stats),
    mq_jax.bwn(),
    quantized=True,
    metadata=packed_network.make_metadata(config, INPUTS),
  )


def _formats() -> dict[str, Callable[[Any], bytes]]:
  """Returns the function that exports a packed network, by suffix."""
  exporters: dict[str, Callable[[Any], bytes]] = {
    '.stablehlo': lambda packed: export.stablehlo(
      packed_network.make_logits(packed), IMAGE
    )
  }
  try:
    export.check_onnx()
  except MissingError as error:
    print(f'ONNX is left out: {error}')
    return exporters
  return exporters | {'.onnx': lambda packed: export.onnx(packed, INPUTS)[0]}


def _rows(
  suffix: str,
  make: Callable[[Any], bytes],
  folder: pathlib.Path,
  packed: mq_jax.PackedParams,
  full: mq_jax.PackedParams,
  rounds: int,
) -> list[table.Row]:
  paths = []
  for name, network in (('full', full), ('packed', packed)):
    paths.append(folder / f'{name}{suffix}')
    paths[-1].write_bytes(make(network))
  rows = []
  for batch in BATCHES:
    images = np.random.default_rng(0).integers(
      0, 256, (batch, *IMAGE), np.uint8
    )
    # The first opening also imports and prepares the runtime, for all files.
    programs = [_program(path, images) for path in paths]
    seconds = measure.interleaved(programs, rounds)
    openings = [
      [_opening(path, images) for path in paths] for _ in range(rounds)
    ]
    rows.append(
      {
        'program': suffix[1:],
        'batch': batch,
        'bytes, full precision': paths[0].stat().st_size,
        'bytes, packed': paths[1].stat().st_size,
        'full precision ms': measure.medians(seconds)[0],
        'time, packed / full': measure.ratios(seconds, 1, over=0),
        'opening, packed / full': measure.ratios(openings, 1, over=0),
      }
    )
  return rows


def _opening(path: pathlib.Path, images: np.ndarray) -> float:
  """Returns the seconds until the first result of a file."""
  began = time.perf_counter()
  artefact.open_here(path).logits(images)
  return time.perf_counter() - began


def _program(path: pathlib.Path, images: np.ndarray) -> measure.Program:
  """Returns a program of one batch."""
  network = artefact.open_here(path)
  network.logits(images)
  began = time.perf_counter()
  network.logits(images)
  steps = max(1, round(ROUND_SECONDS / (time.perf_counter() - began)))

  def run() -> float:
    began = time.perf_counter()
    for _ in range(steps):
      network.logits(images)
    return (time.perf_counter() - began) / steps

  run()
  return measure.Program(path.name, run, 0, 0.0, 0.0)


if __name__ == '__main__':
  main()
