"""Makes and checks the files of a finished run."""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import mq_jax
from experiments.build import train_step
from experiments.common.errors import InvalidError
from experiments.data import datasets
from experiments.deploy import artefact, card, check, export, packed_network
from experiments.records import finished, model_file
from mq_jax.models import BatchNorm, fold_norms, fold_scales
from mq_jax.packing.packed_file import write_atomic

FORMATS = {
  'safetensors': 'packed.safetensors',
  'stablehlo': 'model.stablehlo',
  'onnx': 'model.onnx',
}
PAGE = 'CARD.md'


def deploy(
  workdir: str | pathlib.Path,
  out: str | pathlib.Path,
  formats: Sequence[str] = ('safetensors', 'stablehlo'),
  count_bits: bool = False,
  data_dir: str = '',
) -> dict[str, Any]:
  """Writes and checks the files of the first trial of a finished run.

  Args:
    workdir: Folder of the run, which quantized its weights.
    out: Folder for the files, made if missing. All that an earlier call made
      there is replaced.
    formats: Of `FORMATS`.
    count_bits: Whether convolutions of ±1 with ±1 count bits on CPU: a network
      of binary weights and activations is then several times faster, and its
      program larger. Not for ONNX, which has no such operation.
    data_dir: Where the data lie, if no longer where they were in the run.

  Returns:
    The card (`card.describe`), which is also in `out` as card.json.

  Raises:
    MissingError: If there is no finished run of quantized weights, or ONNX is
      wanted and its packages are not installed.
    InvalidError: If there is no such format, `out` cannot be written to, bits
      cannot be counted, the network has not the accuracy of its run, or a file
      does not give what the trained network gives; `out` is then as it was.
  """
  out, formats = pathlib.Path(out), list(dict.fromkeys(formats))
  unknown = set(formats) - set(FORMATS)
  if unknown or not formats:
    raise InvalidError(
      f'--format={",".join(formats)}: there are {",".join(FORMATS)}'
    )
  if 'onnx' in formats:
    export.check_onnx()
  config, header, path = finished.read(workdir)
  if data_dir:
    config.data_dir = data_dir
  if count_bits:
    _check_bits(config, formats)
  with _folder_in(out) as folder:
    described = _made(config, header, path, folder, formats, count_bits)
    _put(folder, out, formats, described)
  return described


@contextlib.contextmanager
def _folder_in(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder on the same file system, gone afterwards."""
  is_new = not out.exists()
  try:
    out.mkdir(parents=True, exist_ok=True)
    folder = tempfile.TemporaryDirectory(dir=out, prefix='.deploy')
  except OSError as error:
    raise InvalidError(f'--out={out} cannot be written to: {error}') from error
  try:
    with folder:
      yield pathlib.Path(folder.name)
  except BaseException:
    if is_new:
      with contextlib.suppress(OSError):
        out.rmdir()
    raise


def _made(
  config: ConfigDict,
  header: dict[str, Any],
  path: pathlib.Path,
  folder: pathlib.Path,
  formats: Sequence[str],
  count_bits: bool,
) -> dict[str, Any]:
  """Makes all files, and the card of what each is worth."""
  model, dataset = model_file.load_model(path), finished.tested_on(config)
  exact = config.activation_quantizer == 'relu' and config.dtype == 'float32'
  if exact or count_bits:
    params, batch_stats = _folded(model, config), {}
  else:
    # A value on the border of two levels, or of two bfloat16s, falls to either
    # side by the last bit of a norm: these norms stay as they are.
    params, batch_stats = model.params, model.batch_stats
  packed = mq_jax.pack(
    params,
    train_step.rules(config, 1),
    quantized=True,
    model_state=batch_stats,
    metadata=packed_network.described(config, dataset, count_bits),
  )
  expected = _logits_of_trained(model, config, dataset)
  described = card.describe(
    path.parent.resolve().name, header, path, packed, dataset, expected
  )
  check.check_accuracy(described['accuracy'], model)
  for kind in formats:
    file = folder / FORMATS[kind]
    _write(kind, file, packed, described)
    found = check.in_fresh_process(file, dataset.test_images)
    described['artefacts'].append(
      check.compared(file, found, expected, dataset.test_labels)
    )
  hint = ' --count_bits wants kernels of ±1.' if count_bits else ''
  check.check(described['artefacts'], exact, hint)
  return described


def _put(
  folder: pathlib.Path,
  out: pathlib.Path,
  formats: Sequence[str],
  described: dict[str, Any],
) -> None:
  """Moves the files to their place; the card, by which they are known, last."""
  for name in (artefact.CARD, PAGE, *FORMATS.values()):
    (out / name).unlink(missing_ok=True)
  for kind in formats:
    (folder / FORMATS[kind]).replace(out / FORMATS[kind])
  write_atomic(out / PAGE, card.markdown(described).encode())
  write_atomic(out / artefact.CARD, json.dumps(described, indent=1).encode())


def _check_bits(config: ConfigDict, formats: Sequence[str]) -> None:
  activation = train_step.ACTIVATIONS[config.activation_quantizer](
    config.activation_bits
  )
  if activation is None or not activation.binary:
    raise InvalidError(
      f'--count_bits is for activations of ±1, and those of this run are'
      f' {config.activation_quantizer}: leave it out.'
    )
  if 'onnx' in formats:
    raise InvalidError(
      'ONNX cannot count bits: leave it out of --format, or --count_bits.'
    )


def _folded(model: model_file.ModelFile, config: ConfigDict) -> Any:
  net = train_step.network(config, 1)
  scales = finished.scales(model, config)
  params, batch_stats = fold_scales(model.params, model.batch_stats, scales)
  epsilon = getattr(net, 'epsilon', BatchNorm.epsilon)
  return fold_norms(params, batch_stats, epsilon)


def _logits_of_trained(
  model: model_file.ModelFile, config: ConfigDict, dataset: datasets.Dataset
) -> np.ndarray:
  """Of the test images, as the run's own test takes them."""
  logits = packed_network.logits_of(
    mq_jax.PackedParams(
      model.params,
      model.batch_stats,
      packed_network.described(config, dataset),
    )
  )
  trained = jax.jit(logits)
  return artefact.in_batches(
    lambda images: np.asarray(trained(images)), dataset.test_images
  )


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
    classes = {'classes': described['classes']}
    path.write_bytes(export.onnx(logits, image, classes))
