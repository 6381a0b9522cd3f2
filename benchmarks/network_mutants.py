"""The bugs that `benchmarks.mutants` plants in networks and measurements.

These are networks, diagnostics, methods without training, and the statistics of
tables.
"""

from benchmarks.mutant_list import Mutant, planted

MUTANTS: list[Mutant] = [
  *planted(
    'mq_jax/models/batch_norm.py',
    'tests/models/test_batch_norm.py',
    ('the running variance is biased', 'var * (count / (count - 1))', 'var'),
    (
      'the momentum is that of PyTorch',
      'self.momentum * old + (1 - self.momentum) * new',
      '(1 - self.momentum) * old + self.momentum * new',
    ),
    (
      'the batch of init counts',
      'if not self.is_initializing():',
      'if True:',
    ),
    (
      'ReLU6 passes the gradient above its top',
      '(y > 0) & (y < clip)',
      'y > 0',
    ),
    (
      'the gradient of the mean is lost',
      '_last(g_mean / count, x)',
      '_last(0 * g_mean / count, x)',
    ),
    (
      'the gradient of the variance has no factor 2',
      '_last(2 * g_var / count, x)',
      '_last(g_var / count, x)',
    ),
    (
      'the gradient forgets that the batch determines its mean',
      'g - _last(d_bias / count, x) - normal',
      'g - normal',
    ),
    (
      'the gradient of the shortcut ignores the ReLU',
      'd_shortcut = None if like is None else g.astype(like.dtype)',
      'd_shortcut = (\n    None if like is None'
      ' else cotangents[0].astype(like.dtype)\n  )',
    ),
  ),
  *planted(
    'mq_jax/models/gpt.py',
    'tests/models/test_gpt.py',
    ('a token sees those after it', 'is_causal=True', 'is_causal=False'),
    (
      'keys are not rotated',
      'key = rotate(self.key(inputs).reshape(shape), positions)',
      'key = self.key(inputs).reshape(shape)',
    ),
    (
      'neighbouring features are a pair',
      'first, second = x[..., :half], x[..., half:]',
      'first, second = x[..., ::2], x[..., 1::2]',
    ),
    (
      'the rotation is a reflection',
      'first * sin + second * cos',
      'first * sin - second * cos',
    ),
    ('the MLP has GELU', 'jax.nn.silu(', 'jax.nn.gelu('),
    ('the MLP has no shortcut', 'return x + self.mlp(', 'return self.mlp('),
    (
      'the inputs of the last projection are not quantized',
      'self.down(self.quantize(hidden))',
      'self.down(hidden)',
    ),
    (
      'the head of a tied network is its own',
      'self.embed.attend(x) if self.tied else self.head(x)',
      'self.embed.attend(2 * x) if self.tied else self.head(x)',
    ),
    (
      'projections before a shortcut start as wide as others',
      'std = 0.02 / (2 * depth) ** 0.5',
      'std = 0.02',
    ),
  ),
  *planted(
    'mq_jax/diagnostics.py',
    'tests/test_train_step.py',
    (
      'flips count equal codes',
      'now[path] != since[path]',
      'now[path] == since[path]',
    ),
    ('the histogram is not centred', '(w - jnp.mean(w)) / scale', 'w / scale'),
    (
      'weights beyond the histogram are lost',
      'jnp.clip(bins, 0, BINS - 1)',
      'bins',
    ),
  ),
  *planted(
    'mq_jax/direction.py',
    'tests/test_direction.py',
    (
      'π may turn a gradient around',
      "lambda c: c < 0):\n    raise ValueError(\n      f'refine",
      "lambda c: c < -2):\n    raise ValueError(\n      f'refine",
    ),
    (
      'φ may learn from gradients that do not move',
      'lambda c: c == 0',
      'lambda c: c == 2',
    ),
    (
      'a move may be turned around',
      "lambda c: c < 0):\n    raise ValueError(\n      f'post",
      "lambda c: c < -2):\n    raise ValueError(\n      f'post",
    ),
    ('φ may climb', 'lambda c: c > 0', 'lambda c: c > 2'),
    (
      'the gradients have one sign',
      'jnp.arange(w.size) % 3 == 1',
      'jnp.arange(w.size) < 0',
    ),
    ('accumulated gradients are not waited for', 'UPDATES = 64', 'UPDATES = 1'),
  ),
  *planted(
    'mq_jax/estimators/kernels.py',
    'tests/estimators/test_kernels.py',
    ('the matrix is transposed', 'matrix.T @ rows', 'matrix @ rows'),
    (
      'the factors have no offset',
      'matrix.T @ rows + offset[:, None]',
      'matrix.T @ rows',
    ),
    (
      'the factors multiply g_ste in any case',
      'times(signals.g_ste if identity else signals.g_hat, factors)',
      'times(signals.g_ste, factors)',
    ),
  ),
  *planted(
    'mq_jax/methods/aciq.py',
    'tests/methods/test_aciq.py',
    (
      'the tails of the normal prior count once',
      'return 2 * (density - c',
      'return (density - c',
    ),
    ('the rounding error has twelfths', '(3 * 4**bits)', '(12 * 4**bits)'),
    (
      'the deviation is that of Laplace',
      'if laplace else jnp.std(w)',
      'if laplace else jnp.mean(jnp.abs(w - mean))',
    ),
    (
      'the correction keeps the first mean',
      '* ratio + jnp.mean(w)',
      '* ratio + jnp.mean(w_hat)',
    ),
    ('0 is no level', 'jnp.floor(-low / scale + 0.5)', '-low / scale'),
  ),
  *planted(
    'mq_jax/methods/lab.py',
    'tests/methods/test_lab.py',
    ('d is v', 'jnp.sqrt(variables) + _TINY', 'variables + _TINY'),
    (
      'the average forgets all older gradients',
      'decay * variables + (1 - decay)',
      '(1 - decay)',
    ),
    (
      'the average is that of |g|',
      'widened(g_hat) ** 2',
      'jnp.abs(widened(g_hat))',
    ),
  ),
  *planted(
    'mq_jax/methods/lapq.py',
    'tests/methods/test_lapq.py',
    (
      'the correction is that of the layer',
      'axes = tuple(range(w.ndim - 1))',
      'axes = tuple(range(w.ndim))',
    ),
    ('the parabola has a maximum', 'if a > 0 and', 'if a < 0 and'),
    ('the error is squared for all p', '** power)', '** 2)'),
  ),
  *planted(
    'experiments/report/comparison.py',
    'tests/experiments/report/test_comparison.py',
    (
      'the interval is that of 90 %',
      'confidence_interval(0.95)',
      'confidence_interval(0.9)',
    ),
  ),
  *planted(
    'experiments/report/paired.py',
    'tests/experiments/report/test_paired.py',
    (
      'runs of different lengths are compared',
      'return same_base and one.epochs == other.epochs',
      'return same_base',
    ),
    (
      'runs from different base models are compared',
      'return same_base and one.epochs == other.epochs',
      'return one.epochs == other.epochs',
    ),
    (
      'seeds of one setting count',
      'ours.records.keys() & baseline.records.keys()',
      'ours.records.keys() | ours.records.keys()',
    ),
    (
      'p-values are not adjusted',
      '(len(values) - tested) * values[name]',
      'values[name]',
    ),
    (
      'the adjustment is that of Bonferroni',
      'len(values) - tested',
      'len(values)',
    ),
    (
      'adjusted p-values may fall',
      'largest = max(largest, ',
      'largest = max(0.0, ',
    ),
    (
      'a point is filled if it is not significant',
      'adjusted[name] < _SIGNIFICANT',
      'adjusted[name] > _SIGNIFICANT',
    ),
  ),
  *planted(
    'experiments/studies/fair.py',
    'tests/experiments/study/test_fair.py',
    (
      'the worst step size is chosen',
      'key=found.__getitem__, reverse=True',
      'key=found.__getitem__',
    ),
    (
      'a search with holes counts',
      '    if not values:\n      return []',
      '    if not values:\n      continue',
    ),
    (
      'a run that diverged keeps its last accuracy',
      'dict.fromkeys(ledger.seeds(run), 0.0)',
      'dict.fromkeys(ledger.seeds(run), 99.0)',
    ),
  ),
]
