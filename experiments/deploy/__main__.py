r"""Deploys the network of a complete run as small files that run on their own.

  python -m experiments.deploy --workdir=runs/mine --out=small \
    [--format=safetensors,stablehlo,onnx,gguf] [--count_bits] [--data_dir=DIR] \
    [--results=results] [--smoke]

Moves scales into norms, turns norms into a scale and a shift, and packs kernels
into bits. Writes the packed weights, programs that unpack them, and a card to
--out. Each file is opened in a fresh process and run on the test. If one
of them does not return what the trained network returns, nothing is written.
--results also enters the card into the ledger in that folder. --smoke deploys
the smoke run that `python -m experiments.cifar --smoke`, or the same command of
`experiments.imagenet` or `experiments.lm`, made.
"""

import signal
import sys

from absl import app, flags

from experiments.common import runtime
from experiments.common.errors import InvalidError, exit_on_user_error
from experiments.deploy import card
from experiments.deploy.make import FORMATS, PAGE, deploy
from experiments.records import cards
from experiments.training import smoke


@exit_on_user_error()
def main(_: list[str]) -> None:
  """Deploys the network and shows the size and accuracy of each file."""
  arguments = flags.FLAGS
  # An exit by exception removes incomplete files, as after Ctrl-C.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  runtime.configure(fast_compilation=arguments.smoke)
  workdir, out = arguments.workdir, arguments.out
  if arguments.smoke:
    if arguments.results:
      raise InvalidError('--smoke measures nothing: leave out --results.')
    workdir, out = map(smoke.smoke_folder, (workdir, out))
  described = deploy(
    workdir,
    out,
    arguments.format,
    arguments.count_bits,
    arguments.data_dir,
  )
  card.show(described)
  print(f'The files are in {out}, and {PAGE} describes them.')
  if arguments.results:
    print(f'The card is {cards.enter(arguments.results, described)}.')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  flags.DEFINE_string('out', None, 'Folder for the files.', required=True)
  flags.DEFINE_list(
    'format',
    ['safetensors', 'stablehlo'],
    f'Write these formats, from {", ".join(FORMATS)}.',
  )
  flags.DEFINE_bool(
    'count_bits', False, 'Compute convolutions of ±1 with ±1 by counting bits.'
  )
  flags.DEFINE_string('data_dir', '', 'Folder of the prepared data sets.')
  flags.DEFINE_string('results', '', 'Also enter the card into this ledger.')
  flags.DEFINE_bool(
    'smoke',
    False,
    'Deploy the smoke run, from WORKDIR-smoke to OUT-smoke.',
  )
  app.run(main)
