"""Rules without a φ whose slope depends on where a weight is in its cell.

Each multiplies the straight-through gradient of the quantizer, which includes
its scale and its clip; give the quantizer `clip=None` where a paper does not
clip. They need a quantizer that rounds to the nearest level.
"""

from mq_jax.estimators.slopes.adaste import adaste as adaste
from mq_jax.estimators.slopes.dsq import dsq as dsq
from mq_jax.estimators.slopes.ede import ede as ede
from mq_jax.estimators.slopes.ewgs import ewgs as ewgs
from mq_jax.estimators.slopes.ewgs import measured_deltas as measured_deltas
from mq_jax.estimators.slopes.rbnn import rbnn as rbnn
from mq_jax.estimators.slopes.reste import reste as reste
from mq_jax.estimators.slopes.sign import approx_sign as approx_sign
from mq_jax.estimators.slopes.sign import swish_sign as swish_sign
from mq_jax.estimators.slopes.stableqat import stableqat as stableqat
