"""Writes text with a language model of packed weights.

  python -m experiments.sample ARTEFACT [--prompt=TEXT] [--length=300]
    [--temperature=0.8] [--seed=0]
  python -m experiments.sample --workdir=runs/lm

An artefact is a file that `python -m experiments.deploy` wrote. An .onnx file
needs only onnxruntime, a .stablehlo file only jax and flatbuffers; the others
need the packages of training, and a .gguf file also gguf. WORKDIR is the folder
of a complete run of `python -m experiments.lm`, whose quantized weights are
packed into bits first.
"""

import argparse
import os
import sys
from collections.abc import Iterable

from experiments.common.errors import InvalidError, exit_on_user_error
from experiments.deploy import loading
from experiments.deploy.artefact import Artefact
from experiments.deploy.generate import generate


def _open_run(workdir: str) -> Artefact:
  """Packs the network of a run."""
  # An artefact runs without these modules.
  import mq_jax
  from experiments.build.parts import make_parts
  from experiments.common import runtime
  from experiments.data.datasets import DATASETS
  from experiments.data.raw_examples import Tokens
  from experiments.deploy import packed_network
  from experiments.records import model_file
  from experiments.records import workdir as run_folder

  runtime.configure()
  config, _, path = run_folder.read_quantized_run(workdir)
  vocabulary = DATASETS[config.dataset].vocabulary
  if not vocabulary:
    raise InvalidError(
      f'--workdir={workdir} is a run on config.dataset={config.dataset!r}: give'
      ' the folder of a run of experiments.lm.'
    )
  packed = mq_jax.pack(
    model_file.load_model(path).params,
    make_parts(config, steps_per_epoch=1).rules,
    quantized=True,
    metadata=packed_network.make_metadata(
      config, Tokens((config.context,), vocabulary)
    ),
  )
  logits = packed_network.compiled_logits(packed)
  return Artefact(logits, (config.context,), ())


def _open_artefact(path: str) -> Artefact:
  if os.path.isdir(path):
    raise InvalidError(
      f'{path} is a folder. Give a file in it, or --workdir={path} if it is the'
      ' folder of a run.'
    )
  network = loading.load(path)
  if not network.takes_text:
    raise InvalidError(
      f'{path} is a network for images: classify images with it, python -m'
      f' experiments.predict {path} IMAGE.png'
    )
  return network


def _write(prompt: bytes, written: Iterable[int]) -> None:
  """Writes the prompt and each byte as soon as it is there."""
  out = sys.stdout.buffer
  out.write(prompt)
  for byte in written:
    out.write(bytes([byte]))
    out.flush()
  out.write(b'\n')
  out.flush()


@exit_on_user_error()
def main() -> None:
  """Prints the prompt and the text after it."""
  options = argparse.ArgumentParser(
    prog='python -m experiments.sample',
    description=__doc__.splitlines()[0],
  )
  source = options.add_mutually_exclusive_group(required=True)
  source.add_argument(
    'artefact', nargs='?', help='File of a deployed language model.'
  )
  source.add_argument('--workdir', help='Folder of the run, instead of a file.')
  options.add_argument(
    '--prompt', default='', help='Text to continue; empty: a new line.'
  )
  options.add_argument(
    '--length', type=int, default=300, help='Bytes to write.'
  )
  options.add_argument(
    '--temperature',
    type=float,
    default=0.8,
    help='Divisor of the logits; 0: the most probable byte.',
  )
  options.add_argument(
    '--seed', type=int, default=0, help='Seed of the random choices.'
  )
  args = options.parse_args()
  for name in ('length', 'temperature', 'seed'):
    value = getattr(args, name)
    if not value >= 0:
      options.error(f'--{name}={value} must be a number of at least 0.')
  if args.workdir is not None:
    network = _open_run(args.workdir)
  else:
    network = _open_artefact(args.artefact)
  prompt = os.fsencode(args.prompt or '\n')
  written = generate(
    network.logits,
    prompt,
    args.length,
    context=network.shape[0],
    temperature=args.temperature,
    seed=args.seed,
  )
  try:
    _write(prompt, written)
  except BrokenPipeError:
    # The reader has seen enough. Python would complain once more at its exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == '__main__':
  main()
