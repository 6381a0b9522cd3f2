"""Measures how fast photographs are decoded, and how long steps wait for them.

  python -m benchmarks.decode [--quick] [--folder DIR] [--json FILE]

Without --folder, the photographs are random pictures of 500 x 375 pixels, with
noise, of about 75 kB each. The first rows decode them from memory on one thread
each. The last rows train: the share of a step that waits for data compares
steps on fresh batches with steps on one batch.
"""

import argparse
import functools
import io
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks import cases, measure, table
from experiments.build.schema import default_config
from experiments.data import crops
from experiments.data.photographs import crop
from experiments.data.prefetch import cpu_count
from experiments.training.train import make_pipeline

SHAPE = (375, 500)
QUICK = {
  'network': 'resnet8',
  'batch_size': 8,
  'rounds': 2,
  'images': 32,
  'steps': 3,
  'image_size': 32,
}


def main() -> None:
  """Prints the table."""
  command = table.parser(__doc__)
  command.add_argument('--images', type=int, default=400)
  command.add_argument('--steps', type=int, default=20)
  command.add_argument('--image_size', type=int, default=224)
  command.add_argument('--folder', help='photographs as train/CLASS/*')
  command.set_defaults(network='resnet18', batch_size=64)
  args = table.parse(command, QUICK)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(
      args.folder or _write(pathlib.Path(folder), args.images)
    )
    rows = [*_decode_rows(root, args), *_step_rows(root, args)]
  args.folder = bool(args.folder)  # A path is of no interest to readers.
  table.show(
    f'Decoding to {args.image_size} pixels: median (minimum-maximum) of'
    f' {args.rounds} rounds',
    rows,
    args,
  )


def _decode_rows(
  root: pathlib.Path, args: argparse.Namespace
) -> list[table.Row]:
  """Measures each kind of crop, with one thread and with one per CPU."""
  paths = sorted((root / 'train').glob('*/*'))[: args.images]
  contents = [path.read_bytes() for path in paths]
  resize = round(args.image_size * 256 / 224)

  def train_crop(i: int) -> None:
    choose = functools.partial(crops.random_box, np.random.default_rng(i))
    crop(contents[i], 1, choose, args.image_size)

  def test_crop(i: int) -> None:
    choose = functools.partial(
      crops.central_box, resize=resize, size=args.image_size
    )
    crop(contents[i], 1, choose, args.image_size)

  turns = [
    (name, function, threads)
    for name, function in (('train', train_crop), ('test', test_crop))
    for threads in sorted({1, cpu_count()})
  ]
  seconds = [
    [_seconds(function, len(paths), threads) for _, function, threads in turns]
    for _ in range(args.rounds)
  ]
  return [
    {
      'what': f'{name} crop, {threads} threads',
      'images/s': measure.spread([len(paths) / turn[i] for turn in seconds]),
      'images/s and thread': measure.spread(
        [len(paths) / turn[i] / threads for turn in seconds]
      ),
      'share of waiting': None,
    }
    for i, (name, _, threads) in enumerate(turns)
  ]


def _seconds(
  function: Callable[[int], None], count: int, threads: int
) -> float:
  with ThreadPoolExecutor(threads) as pool:
    began = time.perf_counter()
    list(pool.map(function, range(count)))
    return time.perf_counter() - began


def _step_rows(
  root: pathlib.Path, args: argparse.Namespace
) -> Sequence[table.Row]:
  """Measures train steps on fresh batches and on one batch."""
  config = default_config()
  config.update(
    dataset='folder',
    data_dir=str(root),
    holdout=1,
    batch_size=args.batch_size,
    image_size=args.image_size,
    resize=args.image_size,
    dtype=args.dtype,
  )
  pipeline = make_pipeline(config)
  case = cases.quantized(
    cases.problem(
      args.network,
      args.batch_size,
      args.dtype,
      args.image_size,
      len(pipeline.classes),
    ),
    cases.STE,
    1,
  )
  step = jax.jit(case.step_fn)
  number = [0]

  def fresh() -> Any:
    number[0] += 1
    return pipeline.train(0, number[0])

  kept = pipeline.train(0, 0)

  def steps(next_batch: Callable[[], Any]) -> float:
    state = case.state
    began = time.perf_counter()
    for _ in range(args.steps):
      state, metrics = step(state, next_batch())
    jax.block_until_ready((state, metrics))
    return (time.perf_counter() - began) / args.steps

  steps(lambda: kept)
  turns = [(steps(fresh), steps(lambda: kept)) for _ in range(args.rounds)]
  waits = [max(0.0, 1 - alone / whole) for whole, alone in turns]
  return [
    {
      'what': f'training, batch {args.batch_size}',
      'images/s': measure.spread([args.batch_size / t for t, _ in turns]),
      'images/s and thread': None,
      'share of waiting': measure.spread(waits),
    }
  ]


def _write(root: pathlib.Path, count: int) -> pathlib.Path:
  """Writes random photographs of ten classes."""
  rng = np.random.default_rng(0)
  for i in range(count):
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize(SHAPE[::-1], Image.Resampling.BICUBIC))
    noisy = smooth + rng.normal(0, 8, (*SHAPE, 1))
    file = io.BytesIO()
    pixels = noisy.clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, 'JPEG', quality=90)
    path = root / 'train' / str(i % 10) / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
  return root


if __name__ == '__main__':
  main()
