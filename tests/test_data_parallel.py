"""Tests that training on several devices equals training on one device."""

import functools
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import mq_jax
from mq_jax import data_parallel
from mq_jax.host import on_host
from tests import problem
from tests.test_interfaces import ESTIMATORS, QUANTIZERS

DEVICES = 2
WHOLE, SPLIT = PartitionSpec(), PartitionSpec('data')
TRAINED = {
  'ste': mq_jax.ste(),
  'fc_grad': mq_jax.fc_grad(hidden=3, activation='tanh'),
  'lstm_fc': mq_jax.lstm_fc(hidden=4),
  'lstm_fc on a grid': mq_jax.lstm_fc(hidden=4, grid_points=5),
}
MAPS = {
  'shard_map': functools.partial(jax.shard_map, check_vma=True),
  'shard_map unchecked': functools.partial(jax.shard_map, check_vma=False),
}


def mesh(axis_type=AxisType.Auto):
  return jax.make_mesh(
    (DEVICES,),
    ('data',),
    axis_types=(axis_type,),
    devices=jax.devices()[:DEVICES],
  )


def make(estimator, **options):
  return problem.make(
    mq_jax.bwn(),
    estimator,
    **{'refine': optax.scale_by_adam(), 'learning_rate': 0.02} | options,
  )


def parts(batch):
  """Returns the batch with a leading axis of devices."""
  return jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), batch)


def mapped(kind, function, state_out=WHOLE):
  """Maps `(state, batch) -> tree` over parts of the batch."""
  if kind == 'pmap':
    over = jax.pmap(
      function, axis_name='data', in_axes=(None, 0), out_axes=None
    )
    return lambda state, batch: over(state, parts(batch))
  if kind == 'vmap':
    over = jax.vmap(
      function, axis_name='data', in_axes=(None, 0), out_axes=None
    )
    return jax.jit(lambda state, batch: over(state, parts(batch)))
  return jax.jit(
    MAPS[kind](
      function, mesh=mesh(), in_specs=(WHOLE, SPLIT), out_specs=state_out
    )
  )


def numbers(tree):
  return jax.tree.map(
    lambda x: np.asarray(
      jax.random.key_data(x)
      if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
      else x
    ),
    tree,
  )


def assert_close(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12),
    numbers(actual),
    numbers(expected),
  )


@functools.cache
def one_device(name):
  """Returns the states and metrics of three steps; call with float64."""
  train = make(TRAINED[name])
  state, history = problem.start(train), []
  start = jax.tree.map(jnp.copy, state)
  for batch in list(problem.batches(4))[1:]:
    state, metrics = train.step(state, batch)
    history.append((numbers(state), numbers(metrics)))
  return start, history


def assert_equals_one_device(name, step, place=lambda tree: tree):
  start, history = one_device(name)
  state = place(start)
  for batch, expected in zip(
    list(problem.batches(4))[1:], history, strict=True
  ):
    state, metrics = step(state, batch)
    assert_close((state, metrics), expected)
  return state


@pytest.mark.parametrize('kind', [*MAPS, 'pmap'])
@pytest.mark.parametrize('name', TRAINED)
def test_step_mapped_over_devices_equals_one_device(x64, name, kind):
  train = make(TRAINED[name], axis_name='data')
  assert_equals_one_device(name, mapped(kind, train.step_fn))


def divided(tree):
  """Returns shardings that divide the first even axis of weights, as FSDP."""

  def sharding(leaf):
    even = [axis for axis, size in enumerate(leaf.shape) if size % 2 == 0]
    is_weight = jnp.issubdtype(leaf.dtype, jnp.floating) and even
    spec = [None] * even[0] + ['data'] if is_weight else []
    return NamedSharding(mesh(), PartitionSpec(*spec))

  return jax.tree.map(sharding, tree)


@pytest.mark.parametrize(
  ('name', 'is_divided'),
  [*((name, True) for name in TRAINED), ('fc_grad', False)],
)
def test_step_jit_with_sharded_arrays_equals_one_device(x64, name, is_divided):
  train = make(TRAINED[name])
  start, _ = one_device(name)
  placed = (
    divided(start)
    if is_divided
    else jax.tree.map(lambda _: NamedSharding(mesh(), WHOLE), start)
  )
  jitted = jax.jit(train.step_fn, out_shardings=(placed, None))
  state = assert_equals_one_device(
    name,
    lambda state, batch: jitted(
      state, jax.device_put(batch, NamedSharding(mesh(), SPLIT))
    ),
    lambda state: jax.device_put(state, placed),
  )
  kernel = state.params['first']['kernel']
  assert kernel.sharding.is_fully_replicated != is_divided
  # The files of both networks are equal: packing reads the divided arrays.
  whole = jax.device_put(state, jax.devices()[0])
  for ours, theirs in zip(
    jax.tree.leaves(train.pack(state).params),
    jax.tree.leaves(train.pack(whole).params),
    strict=True,
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_step_explicit_mesh_trains_replicated_and_refuses_divided_weights():
  explicit = mesh(AxisType.Explicit)
  batch = jax.device_put(
    next(problem.batches(1)), NamedSharding(explicit, SPLIT)
  )
  train = make(mq_jax.ste())

  def run(params):
    state = jax.eval_shape(
      train.init, jax.random.key(0), params, problem.model_state(), batch
    )
    return jax.eval_shape(train.step_fn, state, batch)

  params = jax.device_put(problem.params(), NamedSharding(explicit, WHOLE))
  run(params)
  params['last']['kernel'] = jax.device_put(
    params['last']['kernel'], NamedSharding(explicit, SPLIT)
  )
  with pytest.raises(ValueError, match=r'last/kernel.*axis_types=.*Auto'):
    run(params)


def abstract_step(quantizer, estimator, axis_name):
  """Traces a step in a checked map, which fails if replicas can differ."""

  def loss_fn(params, model_state, batch, rng):
    loss = jnp.sum(jnp.mean(batch) * params['layer']['kernel'] ** 2)
    return loss, (model_state, {})

  train = mq_jax.make_train_step(
    loss_fn, quantizer, estimator, axis_name=axis_name
  )
  kernel = 0.1 * jnp.arange(-18, 18).reshape(3, 3, 2, 2)
  batch = jnp.ones(DEVICES)
  state = jax.eval_shape(
    train.init, jax.random.key(0), {'layer': {'kernel': kernel}}, {}, batch
  )
  jax.eval_shape(
    jax.shard_map(
      train.step_fn, mesh=mesh(), in_specs=(WHOLE, SPLIT), out_specs=WHOLE
    ),
    state,
    batch,
  )


@pytest.mark.parametrize('name', QUANTIZERS)
def test_step_every_quantizer_gives_equal_replicas(name):
  abstract_step(QUANTIZERS[name](), mq_jax.ste(), 'data')


@pytest.mark.parametrize('name', ESTIMATORS)
def test_step_every_estimator_gives_equal_replicas(name):
  abstract_step(mq_jax.dorefa(2), ESTIMATORS[name](), 'data')


def centered_loss(params, model_state, batch, rng):
  """Normalizes by statistics of the whole batch, as a synchronized norm."""
  x, y = batch
  hidden = x @ params['first']['kernel'] + params['first']['bias'][None]
  mean = jnp.mean(hidden, axis=0)
  hidden = hidden - lax.pmean(mean, 'data')[None]
  error = jnp.tanh(hidden) @ params['last']['kernel'] - y
  return jnp.mean(error**2), (model_state, {})


def averaged_loss(*arguments):
  loss, aux = problem.loss_fn(*arguments)
  return lax.pmean(loss, 'data'), aux


@pytest.mark.parametrize('kind', [*MAPS, 'vmap'])
@pytest.mark.parametrize('loss_fn', [centered_loss, averaged_loss])
def test_value_and_grad_loss_with_own_collectives_equals_whole_batch(
  x64, loss_fn, kind
):
  def run(params, batch):
    return data_parallel.value_and_grad(loss_fn, ('data',))(
      params, problem.model_state(), batch, None
    )

  def one_part(params, batch):
    return jax.vmap(run, axis_name='data', in_axes=(None, 0), out_axes=None)(
      params, jax.tree.map(lambda x: x[None], batch)
    )

  batch = next(problem.batches(1))
  assert_close(
    mapped(kind, run)(problem.params(), batch),
    jax.jit(one_part)(problem.params(), batch),
  )


def test_value_and_grad_averages_what_loss_returns():
  def loss_fn(params, model_state, batch, rng):
    mean = jnp.mean(batch)
    model_state = {
      'mean': mean.astype(jnp.bfloat16),
      'calls': model_state['calls'] + 1,
      'key': jax.random.fold_in(model_state['key'], 0),
    }
    metrics = {'share': jnp.mean(batch > 1)}
    return params * mean, (model_state, metrics)

  model_state = {
    'mean': jnp.zeros((), jnp.bfloat16),
    'calls': jnp.int32(3),
    'key': jax.random.key(0),
  }
  run = mapped(
    'shard_map',
    lambda params, batch: data_parallel.value_and_grad(loss_fn, ('data',))(
      params, model_state, batch, None
    ),
  )
  (loss, (new, metrics)), gradient = run(
    jnp.float32(3), jnp.array([0.0, 1, 2, 5])
  )
  assert (loss, gradient) == (6, 2)
  assert metrics == {'share': 0.5}
  assert (new['mean'], new['calls']) == (2, 4)
  assert new['mean'].dtype == jnp.bfloat16
  assert new['calls'].dtype == jnp.int32
  assert new['key'] == jax.random.fold_in(jax.random.key(0), 0)


def test_value_and_grad_without_axes_is_that_of_jax():
  arguments = (
    problem.params(),
    problem.model_state(),
    next(problem.batches(1)),
    jax.random.key(0),
  )
  ours, theirs = (
    str(jax.make_jaxpr(function)(*arguments))
    for function in (
      data_parallel.value_and_grad(problem.loss_fn, ()),
      jax.value_and_grad(problem.loss_fn, has_aux=True),
    )
  )
  assert ours == theirs


def test_step_two_axes_averages_over_both(x64):
  """Tests an axis of devices, and an axis of parts on each device."""
  train = make(mq_jax.ste(), axis_name=('part', 'data'))

  def run(state, batch):
    inner = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)
    return jax.vmap(
      train.step_fn, axis_name='part', in_axes=(None, 0), out_axes=None
    )(state, inner)

  assert_equals_one_device('ste', mapped('shard_map unchecked', run))


def test_init_inside_map_averages(x64):
  train = make(mq_jax.ste(), axis_name='data')

  def start(key, batch):
    return train.init(key, problem.params(), problem.model_state(), batch)

  state = mapped('shard_map unchecked', start)(
    jax.random.key(0), next(problem.batches(1))
  )
  assert_close(state, one_device('ste')[0])


def noisy_loss(params, model_state, batch, rng):
  rng = jax.random.fold_in(rng, lax.axis_index('data'))
  loss, aux = problem.loss_fn(params, model_state, batch, rng)
  noise = jax.random.normal(rng, (4, 6))
  return loss + jnp.sum(noise * params['first']['kernel']), aux


def replicas_after_two_steps(kind, axis_name):
  """Returns the leaves of a training on each device."""
  train = mq_jax.make_train_step(
    noisy_loss,
    mq_jax.dorefa(2),
    mq_jax.slim(mq_jax.fc_grad(hidden=3)),
    learning_rate=0.1,
    axis_name=axis_name,
  )

  def run(params, batch):
    state = train.init(jax.random.key(0), params, problem.model_state(), batch)
    for _ in range(2):
      state, metrics = train.step_fn(state, batch)
    return state.params, state.phi, metrics

  result = mapped(kind, run)(problem.params(), next(problem.batches(1)))
  return [
    [np.asarray(shard.data) for shard in leaf.addressable_shards]
    for leaf in jax.tree.leaves(result)
  ]


@pytest.mark.parametrize('axis_name', ['data', ()])
def test_step_unchecked_map_replicas_are_equal_or_separate(axis_name):
  copies = replicas_after_two_steps('shard_map unchecked', axis_name)
  assert all(len(leaf) == DEVICES for leaf in copies)
  are_equal = all(np.array_equal(*leaf) for leaf in copies)
  assert are_equal == (axis_name == 'data')


@pytest.mark.parametrize('kind', ['shard_map unchecked', 'pmap'])
def test_step_unchecked_map_without_axis_name_raises(kind):
  with pytest.raises(ValueError, match=r"axis_name='data'.*axis_name=\(\)"):
    replicas_after_two_steps(kind, None)
  # A state from outside of the map.
  train = make(mq_jax.ste())
  step = mapped(kind, train.step_fn)
  with pytest.raises(ValueError, match=r"axis_name='data'.*axis_name=\(\)"):
    step(problem.start(train), next(problem.batches(1)))


def test_step_nan_in_one_part_is_not_finite_on_all_replicas():
  train = make(mq_jax.ste(), axis_name='data')
  x, y = next(problem.batches(1))
  state = problem.start(train)
  step = mapped('shard_map unchecked', train.step_fn)
  _, metrics = step(state, (x.at[-1].set(jnp.nan), y))
  shards = metrics['finite'].addressable_shards
  assert [bool(shard.data) for shard in shards] == [False] * DEVICES


def test_step_checked_map_without_axis_name_raises():
  with pytest.raises(ValueError, match=r"axis_name='data'"):
    abstract_step(mq_jax.bwn(), mq_jax.ste(), None)


def test_step_axis_name_without_its_map_raises():
  train = make(mq_jax.ste(), axis_name='data')
  state = problem.start(train)
  batch = next(problem.batches(1))
  with pytest.raises(ValueError, match=r"'data'.*call step_fn inside"):
    train.step(state, batch)
  with pytest.raises(ValueError, match=r"'date'.*has the axes \('data',\)"):
    abstract_step(mq_jax.bwn(), mq_jax.ste(), 'date')


def test_init_in_map_of_another_axis_raises():
  train = make(mq_jax.ste(), axis_name='data')
  with pytest.raises(ValueError, match='init outside of the map'):
    jax.pmap(train.init, in_axes=(None, None, None, 0))(
      jax.random.key(0),
      problem.params(),
      problem.model_state(),
      parts(next(problem.batches(1))),
    )


@pytest.mark.parametrize(
  ('axis_name', 'error'),
  [
    (3, TypeError),
    (['data'], TypeError),
    ('', ValueError),
    (('data', 'data'), ValueError),
  ],
)
def test_make_train_step_wrong_axis_name_raises(axis_name, error):
  with pytest.raises(error, match='axis_name='):
    problem.make(axis_name=axis_name)


def divided_run():
  """Trains with divided weights on all devices of all processes.

  Returns:
    `(arrays, packed)`: the arrays of the state, metrics and codes in host
    memory, and the packed network.
  """
  everywhere = jax.make_mesh(
    (jax.device_count(),), ('data',), axis_types=(AxisType.Auto,)
  )
  whole, split = (NamedSharding(everywhere, spec) for spec in (WHOLE, SPLIT))
  batches = [
    jax.tree.map(lambda x: jax.device_put(np.asarray(x), split), batch)
    for batch in problem.batches(3)
  ]
  params = jax.device_put(problem.params(), whole)
  kernel = jax.device_put(problem.params()['first']['kernel'], split)
  params['first']['kernel'] = kernel
  train = make(TRAINED['fc_grad'])
  state = train.init(
    jax.random.key(0), params, problem.model_state(), batches[0]
  )
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  step = jax.jit(train.step_fn, out_shardings=(shardings, None))
  for batch in batches[1:]:
    state, metrics = step(state, batch)
  kernel = state.params['first']['kernel']
  assert kernel.is_fully_addressable == (jax.process_count() == 1)
  assert not kernel.is_fully_replicated
  arrays = (state._replace(key=0), metrics, train.codes(state))
  return jax.tree.leaves(on_host(arrays)), train.pack(state)


ONE_OF_TWO_PROCESSES = """
import sys
import jax
port, process, path = sys.argv[1:]
jax.config.update('jax_enable_x64', True)
jax.distributed.initialize(f'localhost:{port}', 2, int(process))
from tests import test_data_parallel
test_data_parallel.save_divided_run(path)
"""


def save_divided_run(path):
  arrays, packed = divided_run()
  mq_jax.save_packed(f'{path}.safetensors', packed)
  np.savez(f'{path}.npz', *arrays)


@pytest.mark.slow
def test_two_processes_train_and_pack_as_one_process(x64, tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  processes = [
    subprocess.Popen(
      [
        *(sys.executable, '-c', ONE_OF_TWO_PROCESSES),
        *(port, str(process), str(tmp_path / f'p{process}')),
      ],
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(2)
  ]
  expected, packed = divided_run()
  for process in processes:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-2000:]
  first, second = (
    list(np.load(tmp_path / f'p{process}.npz').values()) for process in range(2)
  )
  for ours, theirs, alone in zip(first, second, expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(ours, alone, rtol=1e-11, atol=1e-12)
  contents = [path.read_bytes() for path in tmp_path.glob('*.safetensors')]
  assert contents[0] == contents[1]
  loaded = mq_jax.load_packed(tmp_path / 'p0.safetensors')
  assert_close(mq_jax.unpack(loaded), mq_jax.unpack(packed))
