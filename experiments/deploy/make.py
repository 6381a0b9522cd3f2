"""Makes and checks the files of a complete run."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

import mq_jax
from experiments.build.key import subset
from experiments.build.networks import NETWORKS, make_activation, make_network
from experiments.build.parts import make_parts
from experiments.common import files
from experiments.common.errors import InvalidError
from experiments.data.datasets import DATASETS, data_digest
from experiments.data.raw_examples import Inputs, RawExamples, Tokens
from experiments.deploy import (
  artefact,
  card,
  check,
  export,
  gguf_file,
  loading,
  onnx_kernels,
  packed_network,
  worker,
)
from experiments.deploy.kernels import fold_kernels
from experiments.records import cards, model_file, run_log
from experiments.records import workdir as run_folder
from mq_jax.files import write_atomic
from mq_jax.models import BatchNorm, fold_norms

FORMATS = {
  'safetensors': 'packed.safetensors',
  'stablehlo': 'model.stablehlo',
  'onnx': 'model.onnx',
  'gguf': 'model.gguf',
}
PAGE = 'CARD.md'
_STAGING = '.deploy'


def deploy(
  workdir: str | pathlib.Path,
  out: str | pathlib.Path,
  formats: Sequence[str] = ('safetensors', 'stablehlo'),
  count_bits: bool = False,
  data_dir: str = '',
) -> dict[str, Any]:
  """Makes and checks the files of the first trial of a complete run.

  Args:
    workdir: Folder of a run that quantizes weights.
    out: Folder for the files, made if missing. The files of an earlier call are
      replaced.
    formats: Keys of `FORMATS`.
    count_bits: Compute convolutions of ±1 with ±1 by counting bits on CPU. A
      network of binary weights and activations is then several times faster,
      and its program is larger. ONNX has no such operation.
    data_dir: Folder of the data, if it is not that of the run.

  Returns:
    The card (`card.describe`), which is also in `out` as card.json.

  Raises:
    MissingError: If there is no complete run of quantized weights, or the
      packages for ONNX or GGUF are not installed.
    InvalidError: If a format is unknown, `out` is not writable, bits cannot be
      counted, the data or the test accuracy are not those of the run, or a
      file does not return what the trained network returns. `out` then keeps
      its files.
  """
  out, formats = pathlib.Path(out), list(dict.fromkeys(formats))
  if not formats or not set(formats) <= set(FORMATS):
    raise InvalidError(
      f'--format={",".join(formats)} must name formats from'
      f' {",".join(FORMATS)}.'
    )
  if 'onnx' in formats:
    export.check_onnx()
  config, header, path = run_folder.read_quantized_run(workdir)
  if 'onnx' in formats and config.dtype != 'float32':
    raise InvalidError(
      f'onnxruntime has no {config.dtype} on CPU, in which this run computes.'
      ' Leave onnx out of --format, or train with config.dtype=float32.'
    )
  if 'gguf' in formats:
    gguf_file.check_network(config)
  if data_dir:
    config.data_dir = data_dir
  run_log.check_same_data(
    workdir, header, config, data_digest(config, documentation=True)
  )
  if count_bits:
    _check_count_bits(config, formats)
  with (
    _open_folder_in(out) as folder,
    jax.default_matmul_precision(worker.PRECISION),
  ):
    described = _make_files(config, header, path, folder, formats, count_bits)
    _move_files(folder, out, described)
  return described


def _check_count_bits(config: ConfigDict, formats: Sequence[str]) -> None:
  """Refuses to count bits without binary activations, or in ONNX."""
  activation = make_activation(config)
  if NETWORKS[config.network].inputs == 'tokens':
    raise InvalidError(
      f'--count_bits counts in convolutions, which config.network='
      f'{config.network!r} does not have. Leave it out.'
    )
  if activation is None or not activation.binary:
    raise InvalidError(
      '--count_bits needs activations of ±1, but those of this run are'
      f' {config.activation_quantizer}. Leave it out.'
    )
  if 'onnx' in formats:
    raise InvalidError(
      'ONNX cannot count bits. Leave onnx out of --format, or leave out'
      ' --count_bits.'
    )


@contextlib.contextmanager
def _open_folder_in(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """Opens a temporary folder in `out`; an error removes `out` if it is new."""
  is_new = not out.exists()
  try:
    out.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(out, mine=False)
    files.remove_old_folders(out, _STAGING)
    folder = tempfile.TemporaryDirectory(dir=out, prefix=_STAGING)
  except OSError as error:
    raise InvalidError(f'--out={out} is not writable: {error}') from error
  try:
    with folder:
      yield pathlib.Path(folder.name)
  except BaseException:
    if is_new:
      with contextlib.suppress(OSError):
        out.rmdir()
    raise


def _make_files(
  config: ConfigDict,
  header: dict[str, Any],
  path: pathlib.Path,
  folder: pathlib.Path,
  formats: Sequence[str],
  count_bits: bool,
) -> dict[str, Any]:
  """Makes and checks all files in a folder, and returns the card."""
  model = model_file.load_model(path)
  examples = test_examples(config)
  inputs = examples.inputs
  trained = mq_jax.PackedParams(
    model.params,
    model.batch_stats,
    packed_network.make_metadata(config, inputs),
  )
  expected = artefact.run_in_batches(
    packed_network.compiled_logits(trained), examples
  )
  exact = make_activation(config) is None and config.dtype == 'float32'
  params, batch_stats = model.params, model.batch_stats
  # The last bit of a norm decides to which side a value on the border of two
  # levels, or of two bfloat16 numbers, rounds. Such norms stay unchanged.
  # Networks without batch statistics have norms that cannot be folded.
  if batch_stats and (exact or count_bits):
    params, batch_stats = _fold(model, config), {}
  packed = mq_jax.pack(
    params,
    make_parts(config, steps_per_epoch=1).rules,
    quantized=True,
    model_state=batch_stats,
    metadata=packed_network.make_metadata(config, inputs, count_bits),
  )
  accuracy = check.accuracy(expected, examples.labels)
  described = card.describe(header, path, packed, inputs, accuracy)
  check.check_accuracy(accuracy, model)
  for format_name in formats:
    file = folder / FORMATS[format_name]
    runs, facts = _write_file(file, packed, inputs)
    described |= facts
    for rounded in runs:
      exact_products = rounded != check.INPUTS
      found = check.run_in_fresh_process(
        file,
        examples,
        exact_products,
        # Only there a program counts bits, which loses kernels other than ±1.
        platform='cpu' if count_bits else '',
      )
      compared = check.compare(file, found, expected, examples.labels)
      if rounded:
        compared['rounded'] = rounded
      described['artefacts'].append(compared)
  hint = ' --count_bits needs kernels of ±1.' if count_bits else ''
  check.check_artefacts(described['artefacts'], exact, hint)
  return described


def test_examples(config: ConfigDict) -> RawExamples:
  """Returns the test of a run.

  Raises:
    InvalidError: If the data set declares no `test`.
    MissingError: If the data is missing.
  """
  declared = DATASETS[config.dataset]
  if declared.test is None:
    raise InvalidError(
      f'The declaration of config.dataset={config.dataset!r} has no `test`,'
      ' which returns the test examples. Add it in experiments.data.datasets.'
    )
  return declared.test(subset(config, declared.reads))


def _fold(model: model_file.ModelFile, config: ConfigDict) -> Any:
  """Returns parameters with folded scales and norms."""
  folded, _ = fold_kernels(model, config)
  epsilon = getattr(make_network(config, 1), 'epsilon', BatchNorm.epsilon)
  return fold_norms(folded.params, folded.batch_stats, epsilon)


def _write_file(
  path: pathlib.Path, packed: mq_jax.PackedParams, inputs: Inputs | Tokens
) -> tuple[tuple[str, ...], dict[str, int]]:
  """Writes a file in the format of its suffix.

  Returns:
    One item per run that checks the file: what that run rounds, '' for nothing.
    And items of the card.
  """
  if path.suffix == '.safetensors':
    mq_jax.save_packed(path, packed)
  elif path.suffix == '.stablehlo':
    logits = packed_network.make_logits(packed)
    path.write_bytes(export.stablehlo(logits, inputs.shape))
  elif path.suffix == '.gguf':
    return (check.SCALES if gguf_file.write(path, packed) else '',), {}
  else:
    content, direct = export.onnx(packed, inputs)
    path.write_bytes(content)
    facts = {
      'packed_layers': onnx_kernels.count_layers(packed.params),
      'direct_layers': direct,
    }
    return ('', check.INPUTS) if direct else ('',), facts
  return ('',), {}


def _move_files(
  folder: pathlib.Path, out: pathlib.Path, described: dict[str, Any]
) -> None:
  """Moves all files to `out`; the card, which names them, is written last."""
  pages = {
    PAGE: card.markdown(described).encode(),
    loading.CARD: cards.to_bytes(described),
  }
  for name in (*pages, *FORMATS.values()):
    (out / name).unlink(missing_ok=True)
  for path in folder.iterdir():
    path.replace(out / path.name)
  for name, content in pages.items():
    write_atomic(out / name, content)
