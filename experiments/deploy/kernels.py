"""Folds the scales of quantized kernels into norms."""

from ml_collections import ConfigDict

import mq_jax
from experiments.build.parts import make_parts
from experiments.records import model_file
from mq_jax.models import fold_scales, scale_of
from mq_jax.packing.packed_array import packed_leaves


def fold_kernels(
  model: model_file.ModelFile, config: ConfigDict
) -> tuple[model_file.ModelFile, list[str]]:
  """Moves the scales of the quantized kernels of a run into its norms.

  Args:
    model: Quantized network of the run.
    config: Configuration of the run.

  Returns:
    The folded network, and the paths of the kernels that have a scale.

  Raises:
    ValueError: If a kernel with a scale has no norm after it.
  """
  rules = make_parts(config, steps_per_epoch=1).rules
  packed = mq_jax.pack(model.params, rules, quantized=True)
  scales = {
    path: scale
    for path, leaf in packed_leaves(packed.params).items()
    if (scale := scale_of(mq_jax.codes_and_levels(leaf)[1])) is not None
    # A norm has no scale per group of channels.
    and scale.shape in ((), leaf.shape[-1:])
  }
  folded = fold_scales(model.params, model.batch_stats, scales)
  return model_file.ModelFile(*folded, model.metadata), list(scales)
