"""The trained network of a complete run, and the data that tested it."""

from typing import Any

from ml_collections import ConfigDict

import mq_jax
from experiments.build.parts import make_parts
from experiments.data import datasets
from experiments.data.on_device import ImageSet, hold_out
from experiments.records.model_file import ModelFile
from mq_jax.models import scale_of
from mq_jax.packing.packed_array import packed_leaves
from mq_jax.selection import Rules


def load_images(config: ConfigDict) -> ImageSet:
  """Loads the data of a run, with the test set that the run was tested on."""
  images = datasets.load(config.dataset, config.data_dir or None)
  return hold_out(images, config.holdout)


def make_rules(config: ConfigDict) -> Rules:
  """Returns the quantizer of each leaf in a run."""
  return make_parts(config, steps_per_epoch=1).rules


def kernel_scales(model: ModelFile, config: ConfigDict) -> dict[str, Any]:
  """Returns the scale of each quantized kernel that has one, by path."""
  packed = mq_jax.pack(model.params, make_rules(config), quantized=True)
  scales = {
    path: scale_of(mq_jax.codes_and_levels(leaf)[1])
    for path, leaf in packed_leaves(packed.params).items()
  }
  return {path: scale for path, scale in scales.items() if scale is not None}
