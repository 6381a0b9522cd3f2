"""The bugs that `benchmarks.mutants` plants: one change of one line each."""

from typing import NamedTuple


class Mutant(NamedTuple):
  """A plausible bug.

  Attributes:
    module: File that the bug changes.
    bug: Short description.
    old: Text that occurs once in the file.
    new: Its replacement.
    tests: Arguments of pytest: the tests that must notice the bug.
  """

  module: str
  bug: str
  old: str
  new: str
  tests: str


STEP = 'tests/test_train_step.py tests/test_against_oracle.py'
ALGORITHM = 'mq_jax/algorithm.py'
LATE = 'mq_jax/late_update.py'

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
    '(loss, phi_grad, new.grads,',
    '(loss, new.grads,',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'finite ignores the new weights',
    'new.grads, new.params, new.variables',
    'new.grads, new.variables',
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
    'weight_gradient(rule, selected, rule_phi, evaluated)',
    'weight_gradient(\n    rule, selected, rule_phi,'
    ' evaluated._replace(variables=state.variables)\n  )',
    STEP,
  ),
  Mutant(
    ALGORITHM,
    'the cotangent of φ uses the pending gradients of the last loss',
    'weight_gradient(rule, selected, rule_phi, evaluated)',
    'weight_gradient(\n    rule, selected, rule_phi,'
    ' evaluated._replace(grads=state.grads)\n  )',
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
    'init returns the arrays of the caller',
    'return jax.tree.map(jnp.copy, state)',
    'return state',
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
    f'{STEP} tests/methods/test_lsq.py',
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
    'the gradient of φ flows through π in any case',
    'g if setup.differentiate_refinement else lax.stop_gradient(g),',
    'g,',
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
    'levels = jnp.repeat(\n        levels, length // tables, axis,'
    ' total_repeat_length=length\n      )',
    'levels = jnp.concatenate([levels] * (length // tables), axis)',
    'tests/test_per.py',
  ),
  Mutant(
    'mq_jax/quantizers/per.py',
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
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/coordinates.py',
    'the last block is lost in the gradient',
    'lax.scan(add, zeros, (blocks, cotangents))',
    'lax.scan(\n      add, zeros, jax.tree.map(lambda x: x[:-1], (blocks,'
    ' cotangents))\n    )',
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/stacks.py',
    'the offset of a line is dropped',
    "path: scalars['s'] * x + scalars['offset']",
    "path: scalars['s'] * x",
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/stacks.py',
    'identity keeps random biases',
    '{name: jnp.zeros_like(leaf) for name, leaf in layer.items()}',
    '{name: leaf for name, leaf in layer.items()}',
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/stacks.py',
    'identity starts with an offset of 0',
    "'bias': jnp.ones_like(layer['bias'])",
    "'bias': jnp.zeros_like(layer['bias'])",
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/stacks.py',
    'the falling half-line of ReLU has the wrong sign',
    'jnp.where(x >= 0, rising, -falling)',
    'jnp.where(x >= 0, rising, falling)',
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/stacks.py',
    'φ is drawn within 1/fan_in',
    'bound = 1 / math.sqrt(shape[0])',
    'bound = 1 / shape[0]',
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/fully_connected.py',
    'MultiFC multiplies g_ste in any case',
    'return times(g_ste if identity else g_hat, factor), state',
    'return times(g_ste, factor), state',
    'tests/estimators tests/test_against_oracle.py',
  ),
  Mutant(
    'mq_jax/estimators/lstm_cell.py',
    'the gates are in another order',
    'i, f, g, o = jnp.split',
    'i, g, f, o = jnp.split',
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/lstm_cell.py',
    'one of two biases is left out',
    "bias = phi['input_bias'] + phi['recurrent_bias']",
    "bias = phi['input_bias']",
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/lstm_cell.py',
    'the input gate weights the memory',
    'c = c + jax.nn.sigmoid(f) * memory.c',
    'c = c + jax.nn.sigmoid(i) * memory.c',
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/lstm.py',
    'the memory keeps its first state',
    'state = lax.stop_gradient(lstm_cell.History(memory,',
    'state = lax.stop_gradient(lstm_cell.History(state.memory,',
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/wrappers.py',
    'slim trains all layers but one',
    'jnp.where(drawn == index, g, lax.stop_gradient(g))',
    'jnp.where(drawn != index, g, lax.stop_gradient(g))',
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/wrappers.py',
    'slim draws the same layer in each step',
    'return trained, SlimState(key, inner)',
    'return trained, SlimState(state.key, inner)',
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/wrappers.py',
    'all layers draw the same φ',
    'path: init(jax.random.fold_in(key, index), {path: leaf})',
    'path: init(key, {path: leaf})',
    'tests/estimators',
  ),
  Mutant(
    'mq_jax/estimators/features.py',
    'progress exceeds 1',
    'jnp.minimum(state.step / steps, 1.0)',
    'state.step / steps',
    'tests/estimators',
  ),
  # Methods of other papers.
  Mutant(
    'mq_jax/methods/incremental.py',
    'INQ chooses its largest power by 3/2 · max|W|',
    '_, above = jnp.frexp(4 * jnp.where(largest > 0, largest, 1) / 3)',
    '_, above = jnp.frexp(3 * jnp.where(largest > 0, largest, 1) / 2)',
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
  Mutant(
    'mq_jax/methods/slb.py',
    'the last cycle starts again at the end',
    'in_cycle = jnp.where(elapsed < 1, (elapsed * cycles) % 1, 1)',
    'in_cycle = (elapsed * cycles) % 1',
    'tests/methods/test_slb.py',
  ),
  # Packing.
  Mutant(
    'mq_jax/packing/packed_array.py',
    'codes start with their highest bit',
    '(codes.reshape(-1, 1) >> shifts) & 1',
    '(codes.reshape(-1, 1) >> shifts[::-1]) & 1',
    'tests/packing',
  ),
  Mutant(
    'mq_jax/packing/levels.py',
    '0 and −0 are one level',
    'return np.where(patterns == minus_zero, 1, ranks)',
    'return ranks',
    'tests/packing',
  ),
  # Data and schedules of the experiments.
  Mutant(
    'experiments/data/batches.py',
    'crop and flip share a key',
    'crop_key, flip_key = jax.random.split(key)',
    'crop_key = flip_key = key',
    'tests/experiments/data',
  ),
  Mutant(
    'experiments/data/batches.py',
    'all batches of an epoch are cropped alike',
    'key = jax.random.fold_in(key, index)',
    'key = jax.random.fold_in(key, 0)',
    'tests/experiments/data',
  ),
  Mutant(
    'experiments/data/batches.py',
    'crops never reach the last place',
    '-padding, padding + 1, jnp.int32',
    '-padding, padding, jnp.int32',
    'tests/experiments/data',
  ),
  Mutant(
    'experiments/data/batches.py',
    'all epochs have one order',
    'jax.random.fold_in(_key(seed, _ORDER), epoch)',
    'jax.random.fold_in(_key(seed, _ORDER), 0)',
    'tests/experiments/data',
  ),
  Mutant(
    'experiments/data/batches.py',
    'the padding of the last batch counts',
    '(places < len(split.labels))',
    '(places <= len(split.labels))',
    'tests/experiments/data',
  ),
  Mutant(
    'experiments/build/optimizers.py',
    'φ trains one step longer than meta_stop',
    '(step < last)',
    '(step <= last)',
    'tests/experiments/build',
  ),
  Mutant(
    'experiments/build/optimizers.py',
    'α falls one step late',
    'epoch * steps_per_epoch: config.decay_factor',
    'epoch * steps_per_epoch + 1: config.decay_factor',
    'tests/experiments/build',
  ),
  Mutant(
    'experiments/build/optimizers.py',
    'decoupled weight decay comes first',
    'return optax.chain(optimizer, decay)',
    'return optax.chain(decay, optimizer)',
    'tests/experiments/build',
  ),
]
