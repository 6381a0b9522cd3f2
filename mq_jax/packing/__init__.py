"""Trained weights as bits: packing, files, and a summary of each layer."""

from mq_jax.packing.packed_array import PackedArray as PackedArray
from mq_jax.packing.packed_array import codes_and_levels as codes_and_levels
from mq_jax.packing.packed_file import load_packed as load_packed
from mq_jax.packing.packed_file import save_packed as save_packed
from mq_jax.packing.packed_params import PackedParams as PackedParams
from mq_jax.packing.packed_params import pack as pack
from mq_jax.packing.packed_params import unpack as unpack
from mq_jax.packing.summaries import LayerSummary as LayerSummary
from mq_jax.packing.summaries import Summary as Summary
from mq_jax.packing.summaries import summary as summary
