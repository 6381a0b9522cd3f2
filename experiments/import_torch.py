r"""Converts the weights of another program to a model file.

  python -m experiments.import_torch MetaQuant-ResNet20-CIFAR10.safetensors \
    resnet20.safetensors

The source is a .safetensors file with the names of PyTorch, a .pth or .pt file
where PyTorch is installed, or an .npz file of a MobileNetV2 of TensorFlow
(`experiments.records.npz_weights`). `--config.pretrained` takes the same files.
"""

import argparse

import jax

from experiments.common.errors import exit_on_user_error
from experiments.records import model_file
from experiments.records.torch_weights import load_torch


@exit_on_user_error(OSError)
def main(argv: list[str] | None = None) -> None:
  """Converts one file and prints a description of the network."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.import_torch',
    description='Converts the weights of another program to a model file.',
  )
  parser.add_argument('source', help='.safetensors, .pth, .pt or .npz file')
  parser.add_argument('destination', help='.safetensors file to write')
  arguments = parser.parse_args(argv)
  model = load_torch(arguments.source)
  model_file.save_model(arguments.destination, *model)
  leaves = jax.tree_util.tree_leaves(model.params)
  print(
    f'{arguments.destination}: {model.metadata["network"]},'
    f' {model.metadata["num_classes"]} classes,'
    f' {sum(leaf.size for leaf in leaves):,} parameters'
  )


if __name__ == '__main__':
  main()
