"""The bugs that `benchmarks.mutants` plants in rules without a φ.

The quantizers and methods that came with these rules are included.
"""

from benchmarks.mutant_list import Mutant, planted

_SLOPES = 'mq_jax/estimators/slopes'
_METHODS = 'mq_jax/methods'


def _in_slope(name: str, *bugs: tuple[str, str, str]) -> list[Mutant]:
  return planted(
    f'{_SLOPES}/{name}.py', 'tests/estimators/test_slopes.py', *bugs
  )


def _in_method(name: str, *bugs: tuple[str, str, str]) -> list[Mutant]:
  return planted(
    f'{_METHODS}/{name}.py', f'tests/methods/test_{name}.py', *bugs
  )


MUTANTS = [
  *_in_slope(
    'base',
    (
      'progress exceeds 1',
      'jnp.minimum(jnp.asarray(signals.step) / steps, 1.0)',
      'jnp.asarray(signals.step) / steps',
    ),
    (
      'a weight at a threshold belongs to the level below it',
      'self.distance >= 0',
      'self.distance > 0',
    ),
    (
      'the rounding error is that of the other level',
      'self.distance - half, self.distance + half',
      'self.distance + half, self.distance - half',
    ),
    (
      'the relative distance is in cells',
      '2 * self.distance / jnp.where',
      'self.distance / jnp.where',
    ),
    (
      'the slope replaces the gradient',
      '(g * slope(position_at(signals, path, steps)))',
      '(slope(position_at(signals, path, steps)))',
    ),
  ),
  *_in_slope(
    'ede',
    ('k has no lower bound', 'jnp.maximum(1 / t, 1)', '1 / t'),
    (
      'T grows linearly',
      'start * (end / start) ** progress',
      'start + (end - start) * progress',
    ),
    ('the slope has no factor T', 'k * t * sech', 'k * sech'),
    ('tanh does not read T', 'sech_squared(t * pos', 'sech_squared(pos'),
  ),
  *_in_slope(
    'rbnn',
    ('the peak of the triangle is 2 T', 'math.sqrt(2) * t', '2 * t'),
    ('the triangle falls with T', 't**2 * jnp.abs', 't * jnp.abs'),
    ('the slope has no factor k', 'return k * jnp', 'return jnp'),
  ),
  *_in_slope(
    'reste',
    ('o grows from its end', '1 - jnp.cos(jnp.pi', 'jnp.sin(jnp.pi'),
    ('the last o is power + 1', 'grown * (power - 1)', 'grown * power'),
    ('the curve has no factor 1/o', '((1 - o) / o) / o', '((1 - o) / o)'),
    (
      'the slope in the middle is that of the tangent',
      'secant ** (1 / o) / secant',
      'secant ** (1 / o) / o / secant',
    ),
    ('the slope is 0 at clip', 'size > clip', 'size >= clip'),
  ),
  *_in_slope(
    'sign',
    ('the slope of ApproxSign reaches 2', '2 - 2 * jnp', '2 - jnp'),
    ('the slope of SwishSign has no β', 'return beta * (2', 'return (2'),
    ('SwishSign has the tanh of βx', 'jnp.tanh(bx / 2)', 'jnp.tanh(bx)'),
    (
      'SwishSign divides by cosh',
      '2 * decay / (1 + decay) ** 2',
      '2 * decay / (1 + decay**2)',
    ),
  ),
  *_in_slope(
    'stableqat',
    (
      'levels and thresholds are exchanged',
      '(from_threshold) - 0.5',
      '(from_threshold)',
    ),
    ('the slope is inverted', '(1 - s) / (1 + s)', '(1 + s) / (1 - s)'),
    ('the amplitude is that of S', 'amplitude / _POLE *', 'amplitude *'),
  ),
  *_in_slope(
    'dsq',
    (
      'the curve is twice as steep',
      'jnp.log(2 / alpha - 1) / 2',
      'jnp.log(2 / alpha - 1)',
    ),
    (
      'the soft level is not scaled',
      'position.relative) / (1 - alpha)',
      'position.relative)',
    ),
    ('α ascends', 'alpha - learning_rate', 'alpha + learning_rate'),
    ('α does not read the cell', '* position.cell / 2)', ')'),
  ),
  *_in_slope(
    'ewgs',
    ('the sign of the gradient is lost', '* jnp.sign(g) * error', '* error'),
    ('δ is divided by one deviation', '3 * jnp.std', 'jnp.std'),
    (
      'the trace is not divided by N',
      'traces[path])) / w.size',
      'traces[path]))',
    ),
    ('a negative trace gives a negative δ', 'jnp.maximum(mean, 0)', 'mean'),
  ),
  *_in_slope(
    'adaste',
    (
      'the slopes of the directions are exchanged',
      'jnp.sign(theta) == jnp.sign(g)',
      'jnp.sign(theta) != jnp.sign(g)',
    ),
    (
      'the slope has a lower bound instead of an upper one',
      'jnp.minimum(1 / safe',
      'jnp.maximum(1 / safe',
    ),
    ('small gradients are decided too', '& (jnp.abs(g) > least_gradient)', ''),
    ('a decided weight moves on', 'largest), 0), 1', 'largest), 1), 1'),
  ),
  *planted(
    'mq_jax/quantizers/cells.py',
    'tests/test_cells.py',
    ('a weight beyond the last level has no cell', '(code == last) | ', ''),
    (
      'a weight at a level belongs to the cell below it',
      'value < dequantize',
      'value <= dequantize',
    ),
    ('the distance is that from the level below', '(low + high) / 2', 'low'),
  ),
  *_in_method(
    'oscillation',
    (
      'any change is an oscillation',
      'old.direction == -1',
      'old.direction != 0',
    ),
    (
      'a code that stays has no direction',
      'jnp.where(change != 0, change, old.direction)',
      'change',
    ),
    (
      'the two running means exchange their weights',
      'momentum * oscillates + (1 - momentum)',
      '(1 - momentum) * oscillates + momentum',
    ),
    (
      'a weight freezes at its present code',
      'jnp.where(newly, level, codes)',
      'codes',
    ),
    (
      'a frozen weight is free again below the limit',
      'old.frozen | newly',
      'newly',
    ),
    ('the pull is half as strong', 'g + 2 * strength', 'g + strength'),
  ),
  *_in_method(
    'balanced',
    (
      'SEQ places its outer levels at ±α',
      ', 2) / levels',
      ', 2) / (levels - 1)',
    ),
    (
      'SEQ rounds to the nearest level',
      '(share + 1) / 2 * levels)',
      '(share + 1) / 2 * (levels - 1) + 0.5)',
    ),
    (
      'halves of absmean round downwards',
      'jnp.floor(jnp.clip(w / alpha, -1, 1) + 0.5)',
      'jnp.ceil(jnp.clip(w / alpha, -1, 1) - 0.5)',
    ),
    (
      'absmean reads the mean of W',
      'jnp.mean(jnp.abs(w))',
      'jnp.abs(jnp.mean(w))',
    ),
  ),
  *_in_method(
    'soft_sign',
    ('the exact gradient has no factor β', 'g_hat * b * sech', 'g_hat * sech'),
    (
      'β stays at its start',
      'variables + 1,\n    relaxed',
      'variables,\n    relaxed',
    ),
    ('the noise is twice as large', 'wide.dtype) / 2', 'wide.dtype)'),
    ('the gradient does not read τ', 'slope /= temperature * (', 'slope /= ('),
    (
      'each update has the same noise',
      'return Sampled(folded(jax.random.split(key, 1)[0], g_hat))',
      'return variables',
    ),
    (
      'trials that start from equal weights have the same noise',
      'jax.random.split(key, 1)[0], g_hat)',
      'jax.random.split(key, 1)[0], jnp.zeros_like(g_hat))',
    ),
  ),
  *_in_method(
    'standardized',
    (
      'the scale is the power of two below',
      'jnp.where(size > 0, size, 1)) + 0.5)',
      'jnp.where(size > 0, size, 1)))',
    ),
    (
      'σ of libra divides by n',
      'jnp.sum(jnp.square(centred)) / max(w.size - 1, 1)\n    # The',
      'jnp.sum(jnp.square(centred)) / max(w.size, 1)\n    # The',
    ),
    (
      'the weights of ReCU are not balanced',
      'centred = _balanced(w)\n',
      'centred = widened(w)\n',
    ),
    (
      'the quantile of ReCU is that of one tail',
      'jnp.log(2 - 2 * tau',
      'jnp.log(1 - tau',
    ),
    ('τ grows linearly', 'jnp.expm1(progress) / math.expm1(1)', 'progress'),
    (
      'the bound of ReCU has a derivative',
      'lax.stop_gradient(bound)',
      'lax.optimization_barrier(bound)',
    ),
  ),
]
