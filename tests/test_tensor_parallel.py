"""Tests that a transformer with divided kernels trains as on one device."""

import os
import re
import subprocess
import sys

CODE = """
import re
import jax, jax.numpy as jnp, numpy as np, mq_jax, optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from mq_jax import models

jax.config.update('jax_enable_x64', True)
model = models.Gpt(
  16, depth=2, embed_dim=16, heads=4, dtype=jnp.float64, rngs=nnx.Rngs(0)
)
graph, params = nnx.split(model)
params = jax.tree.map(lambda x: x.astype(float), params)
batches = jax.random.randint(jax.random.key(1), (4, 8, 9), 0, 16)

def loss_fn(params, model_state, batch, rng):
  logits = nnx.merge(graph, params)(batch[:, :-1])
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:])
  return losses.mean(), (model_state, {})

train = mq_jax.make_train_step(
  loss_fn,
  [('blocks/.*kernel.*', mq_jax.per(mq_jax.bwn(), axes=0))],
  mq_jax.multi_fc(hidden=5),
  refine=optax.scale_by_adam(),
  learning_rate=0.01,
)
state = train.init(jax.random.key(0), params, {}, batches[0])
mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ('data', 'model'))

# Outputs of the first layers and inputs of the last ones are on two devices.
LAST = {'out': P(None, 'model', None), 'down': P(None, 'model', None)}

def place(path, leaf):
  name = re.search(r'(query|key|value|gate|up|out|down)/kernel', path)
  is_kernel = name and leaf.ndim == 3
  spec = LAST.get(name[1], P(None, None, 'model')) if is_kernel else P()
  return jax.device_put(leaf, NamedSharding(mesh, spec))

def path_of(keys):
  return jax.tree_util.keystr(keys, simple=True, separator='/')

# The step deletes the arrays of its state.
divided = jax.tree_util.tree_map_with_path(
  lambda keys, leaf: place(path_of(keys), jnp.copy(leaf)), state
)
# The softmax of jax's attention is float32, which bounds the agreement.
for batch in batches[1:]:
  state, metrics = train.step(state, batch)
  batch = jax.device_put(batch, NamedSharding(mesh, P('data')))
  divided, of_divided = train.step(divided, batch)
  np.testing.assert_allclose(of_divided['loss'], metrics['loss'], rtol=1e-6)
kernel = divided.params['blocks']['mlp']['up']['kernel'][...]
assert {part.data.shape for part in kernel.addressable_shards} == {(2, 16, 24)}
for ours, theirs in zip(*map(jax.tree.leaves, (divided, state)), strict=True):
  if not jax.dtypes.issubdtype(ours.dtype, jax.dtypes.prng_key):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
print('equal')
"""


def test_kernels_divided_over_8_devices_train_as_on_one_device():
  flags = re.sub(r'--xla_force_host\S+', '', os.environ.get('XLA_FLAGS', ''))
  flags += ' --xla_force_host_platform_device_count=8'
  run = subprocess.run(
    [sys.executable, '-c', CODE],
    env={**os.environ, 'XLA_FLAGS': flags},
    capture_output=True,
    check=False,
    text=True,
  )
  assert (run.returncode, run.stdout) == (0, 'equal\n'), run.stderr
