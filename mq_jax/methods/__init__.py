"""Methods of other papers as quantizers and optax transformations.

The train step has no special case for a method. A quantizer determines the
weights in the loss and in `TrainStep.quantized`. A transformation for `refine`
scales gradients or adds to them. A transformation for `post_update` moves,
masks or clips weights.
"""

from mq_jax.methods.aciq import aciq as aciq
from mq_jax.methods.aciq import best_clip as best_clip
from mq_jax.methods.adaste import annealed_adaste as annealed_adaste
from mq_jax.methods.admm import admm as admm
from mq_jax.methods.admm import scaled_levels as scaled_levels
from mq_jax.methods.balanced import absmean as absmean
from mq_jax.methods.balanced import seq as seq
from mq_jax.methods.incremental import add_elq_penalties as add_elq_penalties
from mq_jax.methods.incremental import fixed_levels as fixed_levels
from mq_jax.methods.incremental import freeze_portions as freeze_portions
from mq_jax.methods.incremental import inq as inq
from mq_jax.methods.incremental import powers_of_two as powers_of_two
from mq_jax.methods.lab import lab as lab
from mq_jax.methods.lapq import LapqResult as LapqResult
from mq_jax.methods.lapq import clipped_uniform as clipped_uniform
from mq_jax.methods.lapq import lapq as lapq
from mq_jax.methods.lapq import lp_clip as lp_clip
from mq_jax.methods.lq_nets import lq_nets as lq_nets
from mq_jax.methods.lsq import lsq as lsq
from mq_jax.methods.oscillation import dampen as dampen
from mq_jax.methods.oscillation import freeze_oscillating as freeze_oscillating
from mq_jax.methods.proximal import binary as binary
from mq_jax.methods.proximal import binary_relax as binary_relax
from mq_jax.methods.proximal import clip_weights as clip_weights
from mq_jax.methods.proximal import prox_l1 as prox_l1
from mq_jax.methods.proximal import prox_l2 as prox_l2
from mq_jax.methods.proximal import proximal_step as proximal_step
from mq_jax.methods.slb import slb as slb
from mq_jax.methods.slb import temperature_schedule as temperature_schedule
from mq_jax.methods.soft_sign import bayes_binn as bayes_binn
from mq_jax.methods.soft_sign import md_tanh as md_tanh
from mq_jax.methods.standardized import libra as libra
from mq_jax.methods.standardized import recu as recu
from mq_jax.methods.ternary import ttq as ttq
from mq_jax.methods.ternary import twn as twn
from mq_jax.methods.uniform import scale_by_position as scale_by_position
from mq_jax.methods.uniform import uniform as uniform
