"""The bugs that `benchmarks.mutants` plants: one change of one line each.

Those in rules without a φ are in `benchmarks.rule_mutants`, those in networks,
diagnostics and statistics in `benchmarks.network_mutants`.
"""

import pathlib
from typing import NamedTuple


class Mutant(NamedTuple):
  """A plausible bug.

  Attributes:
    module: File that the bug changes.
    bug: Short description.
    old: Text that occurs once in the file.
    new: Its replacement.
    tests: Arguments of pytest: the tests that must notice the bug, starting
      with the file that most likely does.
  """

  module: str
  bug: str
  old: str
  new: str
  tests: str


def _tests_in(folder: str, first: str) -> str:
  """Returns all test files in a folder; the one named `first` runs first."""
  root = pathlib.Path(__file__).parents[1]
  paths = sorted((root / folder).rglob('test_*.py'))
  paths.sort(key=lambda path: path.name != first)
  return ' '.join(path.relative_to(root).as_posix() for path in paths)


def planted(
  module: str, tests: str, *bugs: tuple[str, str, str]
) -> list[Mutant]:
  """Returns the mutants of one module.

  Args:
    module: File that the bugs change.
    tests: Arguments of pytest.
    *bugs: Description, old text and new text of each bug.
  """
  return [Mutant(module, *bug, tests) for bug in bugs]


STEP = 'tests/test_train_step.py tests/test_against_oracle.py'
ALGORITHM = 'mq_jax/algorithm.py'
LATE = 'mq_jax/late_update.py'
TRAIN = 'mq_jax/train_step.py'
INIT = 'mq_jax/init_checks.py'
LOSS = 'mq_jax/loss.py'
CHECKS = 'mq_jax/state_checks.py'
PARALLEL = 'mq_jax/data_parallel.py'
ACTIVATIONS = 'mq_jax/activations.py'
PER = 'mq_jax/quantizers/per.py'
REPLICAS = 'tests/test_data_parallel.py'

MUTANTS = [
  # Algorithm 1.
  Mutant(
    ALGORITHM,
    'the rng key of step 1 is that of init',
    'setup, lax.stop_gradient(updated), batch, state.step + 1',
    'setup, lax.stop_gradient(updated), batch, state.step',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'finite ignores the gradient of φ',
    '[loss, phi_grad, new.phi, new.grads]',
    '[loss, new.phi, new.grads]',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'finite ignores the new weights',
    '[new.params, new.variables,',
    '[new.variables,',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'finite ignores the new φ',
    '[loss, phi_grad, new.phi, new.grads]',
    '[loss, phi_grad, new.grads]',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'finite ignores the variables of quantizers',
    'new.params, new.variables, new.model_state',
    'new.params, new.model_state',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'the cotangent of φ uses old variables of quantizers',
    'evaluated._replace(step=state.step + 1)',
    'evaluated._replace(step=state.step + 1, variables=state.variables)',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'the cotangent of φ uses the pending gradients of the last loss',
    'evaluated._replace(step=state.step + 1)',
    'evaluated._replace(step=state.step + 1, grads=state.grads)',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    "phi_cotangent='estimator' uses the straight-through rule",
    'rule, rule_phi = setup.estimator, lax.stop_gradient(phi)',
    'rule, rule_phi = ste(), ()',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'the loss is computed at W, not at Ŵ',
    'forward_params(setup, state),\n    state.model_state',
    'state.params,\n    state.model_state',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'the state keeps the old model state',
    'state._replace(model_state=model_state, grads=grads)',
    'state._replace(grads=grads)',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'the optimizer of φ keeps its first state',
    'meta_opt_state=meta_opt_state,',
    'meta_opt_state=state.meta_opt_state,',
    STEP,
  ),
  # The late update.
  Mutant(
    LATE,
    'eq. (4) is left out',
    'lambda q, w, g, v: q.calibrate(w, g, v).astype(w.dtype)',
    'lambda q, w, g, v: g.astype(w.dtype)',
    STEP,
  ),
  Mutant(
    LATE,
    'α of the next step',
    'setup.learning_rate(state.step)',
    'setup.learning_rate(state.step + 1)',
    STEP,
  ),
  Mutant(
    LATE,
    'variables of quantizers never change',
    'variables=_updated_variables(selected, state),',
    'variables=state.variables,',
    f'tests/methods/test_lsq.py {STEP}',
  ),
  Mutant(
    LATE,
    'quantizers update with W in place of Ŵ',
    'w_hat = forward_weight(q, w_tilde, variables)\n    return',
    'w_hat = w\n    return',
    f'{STEP} tests/methods',
  ),
  Mutant(
    LATE,
    'post_update is part of the gradient of φ',
    'moves = with_derivative_of(moves, final_moves)',
    'moves = final_moves',
    STEP,
  ),
  Mutant(
    LATE,
    'the gradient of φ never flows through π',
    '  if not setup.differentiate_refinement:\n',
    '  if True:\n',
    STEP,
  ),
  Mutant(
    LATE,
    'π does not receive the weights',
    'state.refine_state,\n    state.params,',
    'state.refine_state,\n    state.grads,',
    STEP,
  ),
  Mutant(
    'mq_jax/derivatives.py',
    'the cotangent of the loss is ignored',
    'd_loss.astype(c.dtype) * c',
    'c',
    STEP,
  ),
  Mutant(
    'mq_jax/derivatives.py',
    'the replaced derivative is dropped',
    'lax.stop_gradient(v) + (s - lax.stop_gradient(s))',
    'lax.stop_gradient(v)',
    STEP,
  ),
  Mutant(
    'mq_jax/derivatives.py',
    'a guard of optax against NaN is undone',
    '    s = jnp.where(jnp.isfinite(s), s, 0)\n',
    '',
    STEP,
  ),
  # The checks of a train step.
  Mutant(
    TRAIN,
    'the derivative of refine at zero is not checked',
    '  if differentiate_refinement:\n    check_with_stand_in(refine)\n',
    '',
    STEP,
  ),
  Mutant(
    INIT,
    'tied weights train as two',
    '  _check_tied(leaves, selected.keys())\n',
    '',
    STEP,
  ),
  Mutant(
    TRAIN,
    'weights that no gradient reaches are accepted',
    '    init_checks.check_trainable(measured.is_trainable)\n',
    '',
    STEP,
  ),
  Mutant(
    INIT,
    'slices that no gradient reaches are accepted',
    'any_per_table(passes, levels).all()',
    'passes.any()',
    STEP,
  ),
  Mutant(
    TRAIN,
    'init accepts a complete optimizer of one layer as refine',
    '    direction.check_refine(measured.cosine, learned)\n',
    '',
    'tests/test_direction.py',
  ),
  Mutant(
    TRAIN,
    'phi_loss accepts the state of another train step',
    '    check_state(setup, state)\n    at_rate',
    '    at_rate',
    STEP,
  ),
  Mutant(
    TRAIN,
    'the step keeps the arrays of its state',
    'donate_argnums=0',
    'donate_argnums=()',
    STEP,
  ),
  Mutant(
    LOSS,
    'the model state may change its structure',
    'if old != new:',
    'if old[0] == new[0] and old != new:',
    STEP,
  ),
  Mutant(
    LOSS,
    'the model state may change its shapes and dtypes',
    'if old != new:',
    'if old[0] != new[0]:',
    STEP,
  ),
  Mutant(
    LOSS,
    'a metric named loss is overwritten',
    '{*STEP_METRICS} & metrics.keys()',
    '{*STEP_METRICS[1:]} & metrics.keys()',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'a value that is no State takes a step',
    '  check_is_state(state)\n  if jnp.ndim',
    '  if jnp.ndim',
    STEP,
  ),
  Mutant(
    CHECKS,
    'a state of other quantizers is accepted',
    '  if found == wanted:\n',
    '  if True:\n',
    STEP,
  ),
  Mutant(
    CHECKS,
    'shapes of a state are not compared',
    'if shapes[path] != wanted[path]:',
    'if False:',
    STEP,
  ),
  Mutant(
    CHECKS,
    'additional arrays of a state are accepted',
    'if extra := [path for path in shapes if path not in wanted]:',
    'if extra := []:',
    STEP,
  ),
  Mutant(
    CHECKS,
    'the variables of parametrized quantizers are made from θ',
    'if q.parametrized is not None and path in found',
    'if False',
    STEP,
  ),
  # Several devices and processes.
  Mutant(
    PARALLEL,
    'gradients are not averaged',
    'loss, metrics, grads = _mean((loss, metrics, grads), axes)',
    'loss, metrics = _mean((loss, metrics), axes)',
    REPLICAS,
  ),
  Mutant(
    PARALLEL,
    'the model state is not averaged',
    '      _mean(leaf, axes)\n',
    '      leaf\n',
    REPLICAS,
  ),
  Mutant(
    PARALLEL,
    'gradients are summed over checked replicas',
    ')(_varying(params, axes), *arguments)',
    ')(params, *arguments)',
    REPLICAS,
  ),
  Mutant(
    PARALLEL,
    'a mapped step without axis_name is accepted',
    '    _check_invariant(names, result[0][0], params)\n',
    '',
    REPLICAS,
  ),
  Mutant(
    PARALLEL,
    'a step whose replicas drift apart is accepted',
    '    _check_no_replicas()\n    return\n',
    '    return\n',
    REPLICAS,
  ),
  Mutant(
    PARALLEL,
    'init in a map of another axis is accepted',
    'if axes and not bound_axes(axes) and _manual_axes():',
    'if False:',
    REPLICAS,
  ),
  Mutant(
    'mq_jax/host.py',
    'parts of a divided array are stacked',
    'tiled=True',
    'tiled=False',
    f'{REPLICAS} -k two_processes -m slow',
  ),
  # Activations.
  Mutant(
    ACTIVATIONS,
    'activations round ties to even',
    'return jnp.floor(x + 0.5)',
    'return jnp.round(x)',
    'tests/test_activations.py',
  ),
  Mutant(
    ACTIVATIONS,
    'infinite activations have a derivative of NaN',
    'finite = jnp.where(jnp.isinf(x), jnp.zeros_like(x), x)',
    'finite = x',
    'tests/test_activations.py',
  ),
  Mutant(
    ACTIVATIONS,
    'the step of HWGQ is not optimal',
    '2: 0.538',
    '2: 0.638',
    'tests/test_activations.py',
  ),
  Mutant(
    ACTIVATIONS,
    'PACT passes the gradient at α',
    '(wide < clip)',
    '(wide <= clip)',
    'tests/test_activations.py',
  ),
  Mutant(
    ACTIVATIONS,
    'LSQ scales the gradient of s by the whole batch',
    'x[0].size * q_max',
    'x.size * q_max',
    'tests/test_activations.py',
  ),
  # Slices of weights.
  Mutant(
    PER,
    'inner maps take the axes of the whole weight',
    "in_axes = [0 if kind == 'variables' else axis - outer for kind in takes]",
    "in_axes = [0 if kind == 'variables' else axis for kind in takes]",
    'tests/test_per.py',
  ),
  Mutant(
    PER,
    'inner maps return the axes of the whole weight',
    "out_axes = 0 if returns == 'variables' else axis - outer",
    "out_axes = 0 if returns == 'variables' else axis",
    'tests/test_per.py',
  ),
  Mutant(
    PER,
    'axes are mapped in the order of the caller',
    '_Slices(sorted(split_axes), group_place, group_size)',
    '_Slices(split_axes, group_place, group_size)',
    'tests/test_per.py',
  ),
  Mutant(
    PER,
    'a group size that does not divide its axis is accepted',
    'if shape[group_place] % group_size:',
    'if False:',
    'tests/test_per.py',
  ),
  # Selection.
  Mutant(
    'mq_jax/selection.py',
    'a rule matches the start of a path',
    'regex.fullmatch(p) or regex.fullmatch',
    'regex.match(p) or regex.fullmatch',
    'tests/test_selection.py tests/test_train_step.py',
  ),
  Mutant(
    'mq_jax/selection.py',
    'a rule does not match without /value',
    'regex.fullmatch(p) or regex.fullmatch(p.removesuffix(_BOX))',
    'regex.fullmatch(p)',
    'tests/test_selection.py tests/test_frameworks.py',
  ),
  Mutant(
    'mq_jax/selection.py',
    'the last rule wins',
    'fresh = [p for p in matched if p not in decided]',
    'fresh = matched',
    'tests/test_selection.py tests/test_train_step.py',
  ),
  Mutant(
    'mq_jax/selection.py',
    'a bare quantizer takes vectors',
    'jnp.ndim(leaf) >= 2',
    'jnp.ndim(leaf) >= 1',
    'tests/test_selection.py tests/test_frameworks.py',
  ),
  Mutant(
    'mq_jax/selection.py',
    'a bare quantizer takes embeddings',
    'and not any(_EMBEDDING.fullmatch(folder) for folder in folders)',
    '',
    'tests/test_selection.py tests/test_frameworks.py',
  ),
  # Quantizers.
  Mutant(
    'mq_jax/quantizers/bwn.py',
    'sign(0) = −1',
    '(w_tilde >= 0)',
    '(w_tilde > 0)',
    'tests/test_quantizers.py',
  ),
  Mutant(
    'mq_jax/quantizers/bwn.py',
    'the straight-through gradient has no factor α',
    'return scale(w_tilde) * g_ste if scaled_gradient else g_ste',
    'return g_ste',
    'tests/test_quantizers.py',
  ),
  Mutant(
    'mq_jax/quantizers/dorefa.py',
    'ties round to even',
    'jnp.floor(steps * w + 0.5)',
    'jnp.round(steps * w)',
    'tests/test_quantizers.py',
  ),
  Mutant(
    'mq_jax/quantizers/dorefa.py',
    'eq. (4) has half the slope',
    '/ _tanh_range(w)\n    )',
    '/ (2 * _tanh_range(w))\n    )',
    'tests/test_quantizers.py',
  ),
  Mutant(
    'mq_jax/quantizers/dorefa.py',
    'the range is that of W, not of tanh(W)',
    'largest = jnp.max(jnp.abs(jnp.tanh(widened(w))))',
    'largest = jnp.max(jnp.abs(w))',
    'tests/test_quantizers.py',
  ),
  Mutant(
    'mq_jax/quantizers/base.py',
    'the gradient is clipped at |W̃| = clip',
    'jnp.abs(w_tilde) > clip',
    'jnp.abs(w_tilde) >= clip',
    'tests/test_quantizers.py',
  ),
  Mutant(
    'mq_jax/quantizers/base.py',
    'tables of groups alternate',
    'values = groups.reshape(',
    'values = jnp.swapaxes(groups, axis, axis + 1).reshape(',
    'tests/test_per.py',
  ),
  Mutant(
    PER,
    'an axis after the groups is not shifted',
    'split_axes = [p + (p > group_place) for p in places]',
    'split_axes = [p for p in places]',
    'tests/test_per.py',
  ),
  # Estimators.
  Mutant(
    'mq_jax/estimators/coordinates.py',
    'blocks are skipped by the sign of their cotangent',
    'jnp.any(cotangent != 0)',
    'jnp.any(cotangent > 0)',
    _tests_in('tests/estimators', 'test_coordinates.py'),
  ),
  Mutant(
    'mq_jax/estimators/coordinates.py',
    'the last block is lost in the gradient',
    'lax.scan(add, zeros, (blocks, cotangents))',
    'lax.scan(\n      add, zeros, jax.tree.map(lambda x: x[:-1], (blocks,'
    ' cotangents))\n    )',
    _tests_in('tests/estimators', 'test_coordinates.py'),
  ),
  Mutant(
    'mq_jax/estimators/stacks.py',
    'the offset of a line is dropped',
    "path: scalars['s'] * x + scalars['offset']",
    "path: scalars['s'] * x",
    _tests_in('tests/estimators', 'test_stacks.py'),
  ),
  Mutant(
    'mq_jax/estimators/stacks.py',
    'identity keeps random biases',
    '{name: jnp.zeros_like(leaf) for name, leaf in layer.items()}',
    '{name: leaf for name, leaf in layer.items()}',
    _tests_in('tests/estimators', 'test_stacks.py'),
  ),
  Mutant(
    'mq_jax/estimators/stacks.py',
    'identity starts with an offset of 0',
    "'bias': jnp.ones_like(layer['bias'])",
    "'bias': jnp.zeros_like(layer['bias'])",
    _tests_in('tests/estimators', 'test_stacks.py'),
  ),
  Mutant(
    'mq_jax/estimators/stacks.py',
    'the falling half-line of ReLU has the wrong sign',
    'jnp.where(x >= 0, rising, -falling)',
    'jnp.where(x >= 0, rising, falling)',
    _tests_in('tests/estimators', 'test_stacks.py'),
  ),
  Mutant(
    'mq_jax/estimators/stacks.py',
    'φ is drawn within 1/fan_in',
    'bound = 1 / math.sqrt(shape[0])',
    'bound = 1 / shape[0]',
    _tests_in('tests/estimators', 'test_stacks.py'),
  ),
  Mutant(
    'mq_jax/estimators/fully_connected.py',
    'MultiFC multiplies g_ste in any case',
    'return times(signals.g_ste if identity else signals.g_hat, factor), state',
    'return times(signals.g_ste, factor), state',
    _tests_in('tests/estimators', 'test_fully_connected.py')
    + ' tests/test_against_oracle.py',
  ),
  Mutant(
    'mq_jax/estimators/lstm_cell.py',
    'the gates are in another order',
    'i, f, g, o = jnp.split',
    'i, g, f, o = jnp.split',
    _tests_in('tests/estimators', 'test_lstm.py'),
  ),
  Mutant(
    'mq_jax/estimators/lstm_cell.py',
    'one of two biases is left out',
    "bias = phi['input_bias'] + phi['recurrent_bias']",
    "bias = phi['input_bias']",
    _tests_in('tests/estimators', 'test_lstm.py'),
  ),
  Mutant(
    'mq_jax/estimators/lstm_cell.py',
    'the input gate weights the memory',
    'c = c + jax.nn.sigmoid(f) * memory.c',
    'c = c + jax.nn.sigmoid(i) * memory.c',
    _tests_in('tests/estimators', 'test_lstm.py'),
  ),
  Mutant(
    'mq_jax/estimators/lstm.py',
    'the memory keeps its first state',
    'state = lax.stop_gradient(lstm_cell.History(memory,',
    'state = lax.stop_gradient(lstm_cell.History(state.memory,',
    _tests_in('tests/estimators', 'test_lstm.py'),
  ),
  Mutant(
    'mq_jax/estimators/lstm_grid.py',
    'the memory stays with the points',
    'jax.vmap(_interpolate_rows)(part, positions)',
    'part',
    _tests_in('tests/estimators', 'test_interpolation.py'),
  ),
  Mutant(
    'mq_jax/estimators/interpolation.py',
    'the value at the point below counts for all',
    'return values[below] + share',
    'return values[below] + 0 * share',
    _tests_in('tests/estimators', 'test_interpolation.py'),
  ),
  Mutant(
    'mq_jax/estimators/wrappers.py',
    'slim trains all layers but one',
    'jnp.where(drawn == index, g, lax.stop_gradient(g))',
    'jnp.where(drawn != index, g, lax.stop_gradient(g))',
    _tests_in('tests/estimators', 'test_slim.py'),
  ),
  Mutant(
    'mq_jax/estimators/wrappers.py',
    'slim draws the same layer in each step',
    'return trained, SlimState(key, inner)',
    'return trained, SlimState(state.key, inner)',
    _tests_in('tests/estimators', 'test_slim.py'),
  ),
  Mutant(
    'mq_jax/estimators/wrappers.py',
    'all layers draw the same φ',
    'path: init(jax.random.fold_in(key, index), {path: leaf})',
    'path: init(key, {path: leaf})',
    _tests_in('tests/estimators', 'test_per_layer.py'),
  ),
  Mutant(
    'mq_jax/estimators/features.py',
    'progress exceeds 1',
    'jnp.minimum(signals.step / steps, 1.0)',
    'signals.step / steps',
    _tests_in('tests/estimators', 'test_features.py'),
  ),
  # Methods of other papers.
  Mutant(
    'mq_jax/methods/incremental.py',
    'INQ chooses its largest power by 3/2 · max|W|',
    'top = _power_below(jnp.where(largest > 0, largest, 1) / 0.75)',
    'top = _power_below(jnp.where(largest > 0, largest, 1) / 0.667)',
    'tests/methods/test_incremental.py',
  ),
  Mutant(
    'mq_jax/methods/incremental.py',
    'INQ rounds ties towards 0',
    'jnp.where(w >= 0, from_below, from_above)',
    'jnp.where(w >= 0, from_above, from_below)',
    'tests/methods/test_incremental.py',
  ),
  Mutant(
    'mq_jax/methods/incremental.py',
    'the smallest weights are frozen first',
    'jnp.argsort(jnp.argsort(-size))',
    'jnp.argsort(jnp.argsort(size))',
    'tests/methods/test_incremental.py',
  ),
  Mutant(
    'mq_jax/methods/incremental.py',
    'ELQ pulls with a₂ in place of 2 a₂',
    '+ 2 * approximation * error',
    '+ approximation * error',
    'tests/methods/test_incremental.py',
  ),
  Mutant(
    'mq_jax/methods/ternary.py',
    'TWN takes weights at the threshold',
    'plus = minus = mean(size > delta)',
    'plus = minus = mean(size >= delta)',
    'tests/methods/test_ternary.py',
  ),
  Mutant(
    'mq_jax/methods/ternary.py',
    'weights at the threshold are not 0',
    '(_ZERO + (w > delta) - (w < -delta))',
    '(_ZERO + (w >= delta) - (w <= -delta))',
    'tests/methods/test_ternary.py',
  ),
  Mutant(
    'mq_jax/methods/ternary.py',
    'W_n of TTQ ascends its gradient',
    'd_minus = -jnp.sum(',
    'd_minus = jnp.sum(',
    'tests/methods/test_ternary.py',
  ),
  Mutant(
    'mq_jax/methods/lsq.py',
    'LSQ rounds ties down',
    'jnp.clip(jnp.floor(ratio + 0.5), q_min, q_max)',
    'jnp.clip(jnp.ceil(ratio - 0.5), q_min, q_max)',
    'tests/methods/test_lsq.py',
  ),
  Mutant(
    'mq_jax/methods/lsq.py',
    'the gradient passes at the bounds',
    '(ratio > q_min) & (ratio < q_max)',
    '(ratio >= q_min) & (ratio <= q_max)',
    'tests/methods/test_lsq.py',
  ),
  Mutant(
    'mq_jax/methods/lsq.py',
    'the gradient of s is scaled by √n only',
    'jnp.asarray(w_tilde.size * q_max, slope.dtype)',
    'jnp.asarray(w_tilde.size, slope.dtype)',
    'tests/methods/test_lsq.py',
  ),
  Mutant(
    'mq_jax/methods/lq_nets.py',
    'the ridge of LQ-Nets has no anchor',
    '+ _RIDGE * variables\n',
    '\n',
    'tests/methods/test_lq_nets.py',
  ),
  Mutant(
    'mq_jax/methods/lq_nets.py',
    'the ridge is 1e-3',
    '_RIDGE = 1e-4',
    '_RIDGE = 1e-3',
    'tests/methods/test_lq_nets.py',
  ),
  Mutant(
    'mq_jax/methods/proximal.py',
    'the prox pulls the weight before its move',
    'return prox(new, level, jnp.asarray(now, w.dtype)) - w',
    'return prox(w, level, jnp.asarray(now, w.dtype)) - w + move',
    'tests/methods/test_proximal.py',
  ),
  Mutant(
    'mq_jax/methods/admm.py',
    'G and L change at update 0',
    '& (state.updates > 0)',
    '',
    'tests/methods/test_admm.py',
  ),
  Mutant(
    'mq_jax/methods/slb.py',
    'T reaches its end one update early',
    'share = updates // every * every / total',
    'share = (updates + 1) // every * every / total',
    'tests/methods/test_slb.py',
  ),
  # Packing.
  Mutant(
    'mq_jax/packing/packed_array.py',
    'codes start with their highest bit',
    '(codes.reshape(-1, 1) >> shifts) & 1',
    '(codes.reshape(-1, 1) >> shifts[::-1]) & 1',
    _tests_in('tests/packing', 'test_packed_params.py'),
  ),
  Mutant(
    'mq_jax/packing/levels.py',
    '0 and −0 are one level',
    'return np.where(patterns == minus_zero, 1, ranks)',
    'return ranks',
    _tests_in('tests/packing', 'test_levels.py'),
  ),
  # Data and schedules of the experiments.
  Mutant(
    'experiments/data/batches.py',
    'crop and flip share a key',
    'crop_key, flip_key = jax.random.split(key)',
    'crop_key = flip_key = key',
    _tests_in('tests/experiments/data', 'test_batches.py'),
  ),
  Mutant(
    'experiments/data/batches.py',
    'all batches of an epoch are cropped alike',
    'key = jax.random.fold_in(key, index)',
    'key = jax.random.fold_in(key, 0)',
    _tests_in('tests/experiments/data', 'test_batches.py'),
  ),
  Mutant(
    'experiments/data/batches.py',
    'crops never reach the last place',
    '-padding, padding + 1, jnp.int32',
    '-padding, padding, jnp.int32',
    _tests_in('tests/experiments/data', 'test_batches.py'),
  ),
  Mutant(
    'experiments/data/batches.py',
    'all epochs have one order',
    'jax.random.fold_in(_key(seed, _ORDER), epoch)',
    'jax.random.fold_in(_key(seed, _ORDER), 0)',
    _tests_in('tests/experiments/data', 'test_batches.py'),
  ),
  Mutant(
    'experiments/data/batches.py',
    'the padding of the last batch counts',
    '(places < len(split.labels))',
    '(places <= len(split.labels))',
    _tests_in('tests/experiments/data', 'test_batches.py'),
  ),
  Mutant(
    'experiments/build/optimizers.py',
    'φ trains one step longer than meta_stop',
    '(step < last)',
    '(step <= last)',
    _tests_in('tests/experiments/build', 'test_optimizers.py'),
  ),
  Mutant(
    'experiments/build/optimizers.py',
    'α falls one step late',
    '_steps(epoch, steps_per_epoch): config.decay_factor',
    '_steps(epoch, steps_per_epoch) + 1: config.decay_factor',
    _tests_in('tests/experiments/build', 'test_optimizers.py'),
  ),
  Mutant(
    'experiments/build/optimizers.py',
    'decoupled weight decay comes first',
    'return optax.chain(optimizer, decay)',
    'return optax.chain(decay, optimizer)',
    _tests_in('tests/experiments/build', 'test_optimizers.py'),
  ),
]
