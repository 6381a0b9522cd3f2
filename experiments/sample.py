r"""Writes text with a language model of packed weights.

  python -m experiments.sample --workdir=runs/lm [--prompt=TEXT] [--length=300]
    [--temperature=0.8] [--seed=0]

WORKDIR is the folder of a complete run of `python -m experiments.lm`. Its
quantized weights are packed into bits first, and each step unpacks them.
"""

import os
import sys
from collections.abc import Iterable

import jax
from absl import app, flags

import mq_jax
from experiments.build.networks import make_network
from experiments.build.parts import make_parts
from experiments.common import runtime
from experiments.common.errors import InvalidError, exit_on_user_error
from experiments.data.datasets import DATASETS
from experiments.deploy.generate import generate
from experiments.records import model_file
from experiments.records import workdir as run_folder


@exit_on_user_error()
def main(_: list[str]) -> None:
  """Prints the prompt and the text after it."""
  arguments = flags.FLAGS
  runtime.configure()
  run = run_folder.read_quantized_run(arguments.workdir)
  config, path = run[0], run[2]
  if not DATASETS[config.dataset].symbol:
    raise InvalidError(
      f'--workdir={arguments.workdir} is a run on config.dataset='
      f'{config.dataset!r}: give the folder of a run of experiments.lm.'
    )
  for name in ('length', 'temperature'):
    value = getattr(arguments, name)
    if not value >= 0:
      raise InvalidError(f'--{name}={value} must be a number of at least 0.')
  packed = mq_jax.pack(
    model_file.load_model(path).params,
    make_parts(config, steps_per_epoch=1).rules,
    quantized=True,
  )
  net = make_network(config, DATASETS[config.dataset].vocabulary)
  # Keeps bytes that are not valid UTF-8.
  prompt = (arguments.prompt or '\n').encode(errors='surrogateescape')

  def logits_of(tokens: jax.Array) -> jax.Array:
    params = mq_jax.unpack(packed)
    return net.apply({'params': params}, tokens, train=False)

  written = generate(
    logits_of,
    prompt,
    arguments.length,
    context=config.context,
    temperature=arguments.temperature,
    seed=arguments.seed,
  )
  try:
    _write(prompt, written)
  except BrokenPipeError:
    # The reader has seen enough. Python would complain once more at its exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(prompt: bytes, written: Iterable[int]) -> None:
  """Writes the prompt and each byte as soon as it is there."""
  out = sys.stdout.buffer
  out.write(prompt)
  for byte in written:
    out.write(bytes([byte]))
    out.flush()
  out.write(b'\n')
  out.flush()


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  flags.DEFINE_string('prompt', '', 'Text to continue; empty: a new line.')
  flags.DEFINE_integer('length', 300, 'Bytes to write.')
  flags.DEFINE_float(
    'temperature', 0.8, 'Divisor of the logits; 0: the most probable byte.'
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the random choices.')
  app.run(main)
