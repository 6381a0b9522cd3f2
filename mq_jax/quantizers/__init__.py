"""Quantizers: the forward pass of quantized training, A and Q of the paper.

| paper       | code      | what                                             |
|-------------|-----------|--------------------------------------------------|
| W           | `w`       | full-precision weight of one layer               |
| W̃ = A(W)    | `w_tilde` | pre-processed weight                             |
| Ŵ = Q(W̃)    | `w_hat`   | quantized weight, `levels[codes]`                |
| g_Ŵ         | `g_hat`   | ∂loss/∂Ŵ                                         |
| g_W̃         | `g_tilde` | ∂loss/∂W̃, from a gradient estimator              |
| g_W         | `g`       | ∂loss/∂W = g_W̃ · ∂W̃/∂W, the calibrated gradient  |

A quantizer also contains the straight-through rule of its paper, because these
rules differ. The estimator `ste()` only returns the gradient of that rule.
"""

from mq_jax.quantizers.base import Quantizer as Quantizer
from mq_jax.quantizers.base import Variables as Variables
from mq_jax.quantizers.base import any_per_table as any_per_table
from mq_jax.quantizers.base import at_start as at_start
from mq_jax.quantizers.base import check_no_variables as check_no_variables
from mq_jax.quantizers.base import check_plain as check_plain
from mq_jax.quantizers.base import check_shared as check_shared
from mq_jax.quantizers.base import dequantize as dequantize
from mq_jax.quantizers.base import even_levels as even_levels
from mq_jax.quantizers.base import forward_weight as forward_weight
from mq_jax.quantizers.base import projected as projected
from mq_jax.quantizers.base import quantize as quantize
from mq_jax.quantizers.base import unquantized as unquantized
from mq_jax.quantizers.base import value_per_weight as value_per_weight
from mq_jax.quantizers.base import w_itself as w_itself
from mq_jax.quantizers.bwn import bwn as bwn
from mq_jax.quantizers.cells import Cell as Cell
from mq_jax.quantizers.cells import cell_of as cell_of
from mq_jax.quantizers.dorefa import dorefa as dorefa
from mq_jax.quantizers.per import per as per
