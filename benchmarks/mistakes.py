"""Makes the mistakes of users, and records what the library says.

  python -m benchmarks.mistakes --json results/benchmarks/mistakes.json

The command fails if a mistake raises no error, or an error that this repository
did not raise.
"""

import pathlib
import subprocess
import sys
import tempfile
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import experiments
import mq_jax
from benchmarks import table
from mq_jax import methods

# Errors that are raised elsewhere do not explain the mistake to the user.
_OURS = tuple(
  pathlib.Path(package.__path__[0]) for package in (mq_jax, experiments)
)
# Kind of the mistake, and the code that makes it.
IN_LIBRARY = [
  ('optimizer', 'make(refine=optax.adam(1e-3))'),
  ('optimizer', 'make(refine=optax.lion(1e-3))'),
  ('optimizer', 'make(refine=optax.MultiSteps(optax.scale_by_adam(), 4))'),
  ('optimizer', 'make(refine=optax.scale_by_adam)'),
  ('optimizer', 'make(meta_optimizer=optax.scale_by_adam())'),
  ('optimizer', 'make(post_update=optax.sgd(0.1))'),
  ('optimizer', 'make(learning_rate=-1)'),
  ('quantizer', 'make(quantizer=mq_jax.bwn)'),
  ('quantizer', "make(quantizer='bwn')"),
  ('quantizer', 'mq_jax.bwn(3)'),
  ('quantizer', 'mq_jax.dorefa(bits=9)'),
  ('quantizer', "mq_jax.bwn(scaled_gradient='no')"),
  ('quantizer', 'mq_jax.per(mq_jax.bwn())'),
  ('quantizer', 'start(quantizer=mq_jax.per(mq_jax.bwn(), group_size=3))'),
  ('rules', "start(quantizer=[('kernle', mq_jax.bwn())])"),
  ('rules', "start(quantizer=[('(', mq_jax.bwn())])"),
  ('rules', "start(params={'scale': jnp.ones(4)})"),
  ('weights', "start(params={'kernel': jnp.zeros((4, 2))})"),
  ('weights', "start(params={'kernel': jnp.ones((4, 2), int)})"),
  ('estimator', 'make(estimator=mq_jax.multi_fc)'),
  ('estimator', "start(quantizer=[('.*', None)], estimator=mq_jax.multi_fc())"),
  ('loss', 'start(loss_fn=lambda params, state, batch, _: 1.0)'),
  (
    'loss',
    'start(loss_fn=lambda params, state, batch, _:'
    " (params['kernel'].sum(), (state, {'finite': 1})))",
  ),
  ('arguments', 'make().init(PARAMS, jax.random.key(0), {}, BATCH)'),
  ('arguments', 'make().step(BATCH, start())'),
  ('state', 'make().step(start()._asdict(), BATCH)'),
  ('state', 'make(estimator=mq_jax.multi_fc()).step(start(), BATCH)'),
  (
    'state',
    '(state := start(), make().step(state, BATCH), make().step(state, BATCH))',
  ),
  ('trials', 'make().step(trials(), BATCH)'),
  ('trials', 'make().pack(trials())'),
  ('packing', 'mq_jax.pack(start(), mq_jax.bwn())'),
  ('packing', 'make(quantizer=methods.ttq()).pack(start())'),
  (
    'packing',
    "mq_jax.pack({'kernel': jnp.full((2, 2), jnp.nan)}, mq_jax.bwn())",
  ),
]
# The same for the arguments of `python -m`.
IN_SHELL = [
  ('key', 'experiments.cifar --config.epoch=3'),
  ('key', 'experiments.cifar --config.bits=0'),
  ('key', 'experiments.cifar --config.estimator=multifc'),
  ('key', 'experiments.cifar --config.per_channel=True'),
  ('key', 'experiments.cifar --config.method.threshold=0.1'),
  ('file', 'experiments.cifar --config=resnet21.py'),
  (
    'file',
    'experiments.cifar --config.dataset=digits --config.pretrained=base.pth',
  ),
  ('data', 'experiments.cifar --config.data_dir={folder}'),
  ('data', 'experiments.prepare_data --source {folder}'),
  ('study', 'experiments.study --study=studies/table7.py --workdir={folder}'),
  ('run', 'experiments.deploy --workdir={folder} --out={folder}/small'),
  ('run', 'experiments.report --results={folder}'),
]
ROOT = pathlib.Path(__file__).parents[1]
PARAMS = {'kernel': np.random.default_rng(0).normal(size=(4, 2)).astype('f4')}
BATCH = np.ones((3, 4), 'f4')


def loss_fn(params: Any, state: Any, batch: Any, _: Any) -> Any:
  """Returns the mean square of the outputs of one layer."""
  return jnp.mean((batch @ params['kernel']) ** 2), (state, {})


def make(
  loss_fn: Any = loss_fn,
  quantizer: Any = None,
  estimator: Any = None,
  **options: Any,
) -> mq_jax.TrainStep:
  """Returns a train step; None is a valid argument."""
  return mq_jax.make_train_step(
    loss_fn, quantizer or mq_jax.bwn(), estimator or mq_jax.ste(), **options
  )


def start(params: Any = PARAMS, **options: Any) -> mq_jax.State:
  """Returns the first state of a train step."""
  return make(**options).init(jax.random.key(1), params, {}, BATCH)


def trials() -> mq_jax.State:
  """Returns the first states of two trials."""
  keys = jax.random.split(jax.random.key(1), 2)
  return jax.vmap(lambda key: make().init(key, PARAMS, {}, BATCH))(keys)


def in_library(code: str) -> str:
  """Returns the error that Python code of a user raises, or ''.

  Raises:
    SystemExit: If other code than that of this repository raises the error.
  """
  try:
    eval(code, globals() | {'optax': optax, 'methods': methods})
  except Exception as error:
    text = f'{type(error).__name__}: {error}'
    if not is_ours(error):
      raise SystemExit(f'{code} fails outside of mq_jax: {text}') from error
    return text
  return ''


def is_ours(error: Exception) -> bool:
  """Returns True if code of this repository raised the error."""
  *_, last = traceback.extract_tb(error.__traceback__)
  return any(
    pathlib.Path(last.filename).is_relative_to(folder) for folder in _OURS
  )


def in_shell(arguments: str) -> str:
  """Returns the error of a command of the experiments, or ''.

  Raises:
    SystemExit: If the command shows a traceback.
  """
  with tempfile.TemporaryDirectory() as folder:
    process = subprocess.run(
      [sys.executable, '-m', *arguments.format(folder=folder).split()],
      capture_output=True,
      text=True,
      check=False,
    )
    errors = process.stderr
  places = {
    folder: 'FOLDER',
    str(ROOT): 'CHECKOUT',
    str(pathlib.Path.home()): '~',
  }
  for place, name in places.items():
    errors = errors.replace(place, name)
  if 'Traceback' in errors:
    raise SystemExit(f'{arguments} shows a traceback:\n{errors}')
  return ' '.join(errors.split()) if process.returncode else ''


def main() -> None:
  """Makes all mistakes and prints the table."""
  args = table.parse(table.bare_parser(__doc__), {})
  rows = [
    {'kind': kind, 'mistake': f'`{text}`', 'error': run(text)}
    for run, mistakes in ((in_library, IN_LIBRARY), (in_shell, IN_SHELL))
    for kind, text in mistakes
  ]
  table.show('Mistakes and their errors', rows, args)
  sys.exit(not all(row['error'] for row in rows))


if __name__ == '__main__':
  main()
