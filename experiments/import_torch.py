r"""Converts the authors' .pth files to our model files, without torch.

  python -m experiments.import_torch MetaQuant-ResNet20-CIFAR10.pth \
    resnet20.safetensors
"""

import argparse
import sys

import jax

from experiments.records import model_file
from experiments.records.torch_weights import load_torch


def main(argv: list[str] | None = None) -> None:
  """Converts one file and says what it was."""
  parser = argparse.ArgumentParser(
    description='Converts a .pth file of the MetaQuant authors.'
  )
  parser.add_argument('source', help='their .pth file')
  parser.add_argument('destination', help='ours to write, .safetensors')
  arguments = parser.parse_args(argv)
  try:
    model = load_torch(arguments.source)
    model_file.save_model(arguments.destination, *model)
  except (OSError, ValueError) as error:
    sys.exit(f'import_torch: {error}')
  leaves = jax.tree_util.tree_leaves(model.params)
  print(
    f'{arguments.destination}: {model.metadata["network"]},'
    f' {model.metadata["num_classes"]} classes,'
    f' {sum(leaf.size for leaf in leaves):,} parameters'
  )


if __name__ == '__main__':
  main()
