"""From a finished run to small files that run.

  python -m experiments.deploy --workdir=runs/mine --out=small \
    [--format=safetensors,stablehlo,onnx] [--count_bits] [--results=results]

Scales go into norms, norms into a scale and a shift, kernels into bits. Writes
into --out the packed weights, programs that unpack them, and a card. Each file
is opened in a fresh process and run on the test images; if one does not give
what the trained network gives, nothing is left.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

import mq_jax
from experiments import (
  artefact,
  build,
  card,
  data,
  export,
  finished,
  model_file,
  packed_network,
  runtime,
)
from experiments.errors import InvalidError, told_plainly
from mq_jax.models import BatchNorm, fold_norms, fold_scales
from mq_jax.packed_file import write_whole

FORMATS = {
  'safetensors': 'packed.safetensors',
  'stablehlo': 'model.stablehlo',
  'onnx': 'model.onnx',
}
# Share of images whose predictions may differ where activations are rounded:
# one on the border of two levels falls to either side by the last bit of a sum,
# which no two programs need have in common.
BORDERLINE = 1e-3
_ROOT = pathlib.Path(__file__).resolve().parents[1]


def deploy(
  workdir: str | pathlib.Path,
  out: str | pathlib.Path,
  formats: Sequence[str] = ('safetensors', 'stablehlo'),
  count_bits: bool = False,
) -> dict[str, Any]:
  """Writes and checks the files of the first trial of a finished run.

  Args:
    workdir: Folder of the run, which quantized its weights.
    out: Folder for the files, made if missing; files of these names in it are
      replaced.
    formats: Of `FORMATS`.
    count_bits: Whether convolutions of ±1 with ±1 count bits on CPU: a network
      of binary weights and activations is then several times faster, and its
      program larger. Not for ONNX, which has no such operation.

  Returns:
    The card (`card.describe`), which is also in `out` as card.json.

  Raises:
    MissingError: If there is no finished run of quantized weights, or ONNX is
      wanted and its packages are not installed.
    InvalidError: If there is no such format, bits cannot be counted, or a file
      does not give what the trained network gives; `out` is then as it was.
  """
  out = pathlib.Path(out)
  unknown = set(formats) - set(FORMATS)
  if unknown or not formats:
    raise InvalidError(
      f'--format={",".join(formats)}: there are {",".join(FORMATS)}'
    )
  if 'onnx' in formats:
    export.check_onnx()
  config, header, path = finished.read(workdir)
  if count_bits:
    _check_bits(config, formats)
  model = model_file.load_model(path)
  dataset = finished.tested_on(config)
  net = build.network(config, len(dataset.class_names))
  params, batch_stats = _folded(net, model, config, count_bits)
  packed = mq_jax.pack(
    params,
    build.rules(config, 1),
    quantized=True,
    model_state=batch_stats,
    metadata=packed_network.described(config, dataset, count_bits),
  )
  expected = _logits_of_trained(model, config, dataset)
  described = card.describe(
    pathlib.Path(workdir).name, header, path, packed, dataset, expected
  )
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=out.parent, prefix='.deploy') as folder:
    for kind in formats:
      file = pathlib.Path(folder) / FORMATS[kind]
      _write(kind, file, packed, described)
      found = _in_fresh_process(file, dataset.test_images)
      described['artefacts'].append(
        card.compared(file, found, expected, dataset.test_labels)
      )
    _check(
      described['artefacts'],
      exact=config.activations == 'relu',
      hint=' --count_bits wants kernels of ±1.' if count_bits else '',
    )
    out.mkdir(exist_ok=True)
    for kind in formats:
      (pathlib.Path(folder) / FORMATS[kind]).replace(out / FORMATS[kind])
  write_whole(out / 'README.md', card.markdown(described).encode())
  write_whole(out / artefact.CARD, json.dumps(described, indent=1).encode())
  return described


def _check_bits(config: ConfigDict, formats: Sequence[str]) -> None:
  activation = build.ACTIVATIONS[config.activations](config.activation_bits)
  if activation is None or not activation.binary:
    raise InvalidError(
      f'--count_bits is for activations of ±1, and those of this run are'
      f' {config.activations}: leave it out.'
    )
  if 'onnx' in formats:
    raise InvalidError(
      'ONNX cannot count bits: leave it out of --format, or --count_bits.'
    )


def _folded(
  net: Any,
  model: model_file.ModelFile,
  config: ConfigDict,
  count_bits: bool,
) -> tuple[Any, Any]:
  """Parameters and batch statistics of the network that is deployed."""
  if config.activations != 'relu' and not count_bits:
    # An activation on the border of two levels falls to either side by the last
    # bit of a norm, and the logits with it: these norms stay as they are.
    return model.params, model.batch_stats
  scales = finished.scales(model, config)
  params, batch_stats = fold_scales(model.params, model.batch_stats, scales)
  epsilon = getattr(net, 'epsilon', BatchNorm.epsilon)
  return fold_norms(params, batch_stats, epsilon), {}


def _logits_of_trained(
  model: model_file.ModelFile, config: ConfigDict, dataset: data.Dataset
) -> np.ndarray:
  """Of the test images, as the run's own test takes them."""
  logits = packed_network.logits_of(
    mq_jax.PackedParams(
      model.params,
      model.batch_stats,
      packed_network.described(config, dataset),
    )
  )
  trained = artefact.Artefact(jax.jit(logits), (0, 0), ())
  return artefact.in_batches(trained, dataset.test_images)


def _write(
  kind: str,
  path: pathlib.Path,
  packed: mq_jax.PackedParams,
  described: dict[str, Any],
) -> None:
  if kind == 'safetensors':
    mq_jax.save_packed(path, packed)
    return
  logits = packed_network.logits_of(packed)
  image = tuple(described['images'])
  if kind == 'stablehlo':
    path.write_bytes(export.stablehlo(logits, image))
  else:
    known = {key: described[key] for key in ('name', 'classes')}
    path.write_bytes(export.onnx(logits, image, known))


def _in_fresh_process(path: pathlib.Path, images: np.ndarray) -> np.ndarray:
  """The logits of an artefact, from a process that knows its file alone."""
  with tempfile.TemporaryDirectory() as folder:
    given, result = (pathlib.Path(folder) / n for n in ('x.npy', 'y.npy'))
    np.save(given, images)
    paths = os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
      [sys.executable, '-m', 'experiments.artefact', path, given, result],
      env=os.environ | {'PYTHONPATH': paths.rstrip(os.pathsep)},
      capture_output=True,
      text=True,
      check=False,
    )
    if done.returncode:
      raise InvalidError(
        f'{path.name} does not run in a process of its own:\n{done.stderr}'
      )
    logits: np.ndarray = np.load(result)
    return logits


def _check(artefacts: list[dict[str, Any]], exact: bool, hint: str) -> None:
  """Raises `InvalidError` unless all give what the trained network gives."""
  for one in artefacts:
    images = one['images']
    others = images - one['equal_predictions']
    far = images - one['equal_logits']
    if others > (0 if exact else BORDERLINE * images) or (exact and far):
      raise InvalidError(
        f'{one["file"]} is not the trained network: {others} of {images}'
        f' predictions differ, and the logits of {far} images by more than'
        f' {card.TOLERANCE} of the largest, by up to'
        f' {one["largest_error"]:.1e}.{hint} Nothing was written.'
      )


def main(argv: list[str]) -> None:
  """Deploys, and shows what it made."""
  del argv
  arguments = flags.FLAGS
  runtime.configure()
  with told_plainly():
    described = deploy(
      arguments.workdir,
      arguments.out,
      arguments.format,
      arguments.count_bits,
    )
    print(card.markdown(described))
    if arguments.results:
      print(f'wrote {card.enter(arguments.results, described)}')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  flags.DEFINE_string('out', None, 'Folder for the files.', required=True)
  flags.DEFINE_list(
    'format', ['safetensors', 'stablehlo'], f'Of {",".join(FORMATS)}.'
  )
  flags.DEFINE_bool(
    'count_bits', False, 'Convolutions of ±1 with ±1 count bits.'
  )
  flags.DEFINE_string('results', '', 'Folder of the ledger, to enter the card.')
  app.run(main)
