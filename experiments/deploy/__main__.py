"""From a finished run to small files that run.

  python -m experiments.deploy --workdir=runs/mine --out=small \
    [--format=safetensors,stablehlo,onnx] [--count_bits] [--data_dir=DIR]

Scales go into norms, norms into a scale and a shift, kernels into bits. Writes
into --out the packed weights, programs that unpack them, and a card. Each file
is opened in a fresh process and run on the test images; if one does not give
what the trained network gives, nothing is left. --results=results enters the
card into the ledger.
"""

import signal
import sys

from absl import app, flags

from experiments.common import runtime
from experiments.common.errors import exit_on_user_error
from experiments.deploy import card
from experiments.deploy.make import FORMATS, PAGE, deploy
from experiments.records import cards


def main(argv: list[str]) -> None:
  """Deploys, and shows what it made."""
  del argv
  arguments = flags.FLAGS
  # So that what is half made goes, as it does at Ctrl-C.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  runtime.configure()
  with exit_on_user_error():
    described = deploy(
      arguments.workdir,
      arguments.out,
      arguments.format,
      arguments.count_bits,
      arguments.data_dir,
    )
    card.show(described)
    print(f'wrote {arguments.out}: {PAGE} says more')
    if arguments.results:
      print(f'wrote {cards.enter(arguments.results, described)}')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  flags.DEFINE_string('out', None, 'Folder for the files.', required=True)
  flags.DEFINE_list(
    'format', ['safetensors', 'stablehlo'], f'Of {",".join(FORMATS)}.'
  )
  flags.DEFINE_bool(
    'count_bits', False, 'Convolutions of ±1 with ±1 count bits.'
  )
  flags.DEFINE_string('data_dir', '', 'Where the data lie, if they moved.')
  flags.DEFINE_string('results', '', 'Folder of the ledger, to enter the card.')
  app.run(main)
