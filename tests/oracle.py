"""MetaQuant in float64 NumPy, with every derivative written out by hand.

An independent implementation of one iteration. Tests compare `mq_jax` with it.
It was written from the paper's equations and the project's design page. It
imports nothing from the library, and uses plain formulas and loops over leaves
rather than fast code.

    config = Config(
      quantizers=everywhere(dorefa(bits=1)),
      estimator=multi_fc(),
      refine=adam(),
      learning_rate=1e-3,
      meta_learning_rate=1e-3,
    )
    state = init(config, phi, params, model_state, batch)
    state, aux = step(config, state, next_batch)

The network is fixed (`loss_and_grads`). Its params, its gradients and the
arrays of `State` and `Aux` are nested dicts, as in a Flax module:

    params = {
      'conv': {'kernel': (3, 3, Cin, C)},
      'norm': {'scale': (C,), 'bias': (C,)},
      'shortcut': {'kernel': (1, 1, C, C2)},
      'dense': {'kernel': (C2, K), 'bias': (K,)},
    }
    model_state = {'norm': {'mean': (C,), 'var': (C,)}}
    batch = {'image': (N, H, W, Cin), 'label': (N,) integers below K}

Internally, leaves are keyed by path ('conv/kernel'). `flatten` and `unflatten`
convert between the two forms.

References:
  Chen, Wang and Pan, "MetaQuant: Learning to Quantize by Learning to
  Penetrate Non-differentiable Quantization", NeurIPS 2019, equations (1) to
  (11) and Algorithm 1.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Leaves = dict[str, Array]  # path -> array
Tree = Any  # nested dicts and tuples of arrays
Schedule = Callable[[int], float]
Activation = Literal['relu', 'tanh'] | None

QUANTIZED = ('conv/kernel', 'shortcut/kernel', 'dense/kernel')
BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.9


# Trees.


def tree_map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
  """Applies `fn` to the arrays of nested dicts, tuples and lists."""
  if isinstance(tree, Mapping):
    return {k: tree_map(fn, v, *(r[k] for r in rest)) for k, v in tree.items()}
  if isinstance(tree, tuple | list):
    return tuple(
      tree_map(fn, *column) for column in zip(tree, *rest, strict=True)
    )
  return fn(tree, *rest)


def float64(tree: Tree) -> Tree:
  """Copies every array of `tree` to float64."""
  return tree_map(lambda x: np.array(x, np.float64), tree)


def flatten(tree: Mapping[str, Any]) -> Leaves:
  """Converts {'conv': {'kernel': x}} to {'conv/kernel': x}."""
  leaves: Leaves = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      leaves |= {f'{name}/{path}': x for path, x in flatten(value).items()}
    else:
      leaves[name] = value
  return leaves


def unflatten(leaves: Leaves) -> Tree:
  """Inverts `flatten`."""
  tree: dict[str, Any] = {}
  for path, value in leaves.items():
    *folders, name = path.split('/')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = value
  return tree


# The network.


def conv3x3(x: Array, kernel: Array) -> Array:
  """Computes a 3x3 cross-correlation, stride 1, zero padding, NHWC and HWIO."""
  _, height, width, _ = x.shape
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return sum(
    padded[:, i : i + height, j : j + width] @ kernel[i, j]
    for i in range(3)
    for j in range(3)
  )


def conv3x3_kernel_grad(x: Array, dy: Array) -> Array:
  """Returns d sum(dy * conv3x3(x, kernel)) / d kernel."""
  _, height, width, _ = x.shape
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  grad = np.zeros((3, 3, x.shape[-1], dy.shape[-1]))
  for i in range(3):
    for j in range(3):
      window = padded[:, i : i + height, j : j + width]
      grad[i, j] = np.einsum('nhwc,nhwd->cd', window, dy)
  return grad


def loss_and_grads(
  params: Tree, model_state: Tree, batch: Mapping[str, Any]
) -> tuple[float, Tree, Tree]:
  """Computes the cross entropy of the network and its gradients by hand.

  3x3 conv, batch norm over (N, H, W), ReLU, 1x1 conv, mean over (H, W),
  dense, softmax cross entropy, mean over the batch.

  Args:
    params: Weights of the network; quantized leaves contain W^. Shapes as in
      the module docstring.
    model_state: Running mean and variance of the norm.
    batch: 'image' of shape (N, H, W, Cin) and 'label' of shape (N,).

  Returns:
    The loss, the next `model_state` (unbiased variance), and the gradients
    with respect to the given `params`.
  """
  image = np.asarray(batch['image'], np.float64)
  labels = np.asarray(batch['label'])
  count, height, width, _ = image.shape
  pixels = count * height * width
  axes = (0, 1, 2)

  convolved = conv3x3(image, params['conv']['kernel'])
  mean = convolved.mean(axes)
  centred = convolved - mean
  var = (centred**2).mean(axes)
  std = np.sqrt(var + BATCH_NORM_EPS)
  normal = centred / std
  scaled = normal * params['norm']['scale'] + params['norm']['bias']
  active = np.maximum(scaled, 0.0)
  shortcut = params['shortcut']['kernel'][0, 0]
  mixed = active @ shortcut
  pooled = mixed.mean((1, 2))
  logits = pooled @ params['dense']['kernel'] + params['dense']['bias']
  shifted = logits - logits.max(1, keepdims=True)
  log_probs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
  loss = -log_probs[np.arange(count), labels].mean()

  d_logits = np.exp(log_probs)
  d_logits[np.arange(count), labels] -= 1.0
  d_logits /= count
  d_pooled = d_logits @ params['dense']['kernel'].T
  d_mixed = np.broadcast_to(
    d_pooled[:, None, None, :] / (height * width), mixed.shape
  )
  d_scaled = (d_mixed @ shortcut.T) * (scaled > 0.0)
  d_normal = d_scaled * params['norm']['scale']
  # The batch mean and variance also depend on the input.
  d_convolved = (
    d_normal - d_normal.mean(axes) - normal * (d_normal * normal).mean(axes)
  ) / std

  grads = {
    'conv': {'kernel': conv3x3_kernel_grad(image, d_convolved)},
    'norm': {
      'scale': (d_scaled * normal).sum(axes),
      'bias': d_scaled.sum(axes),
    },
    'shortcut': {
      'kernel': np.einsum('nhwc,nhwd->cd', active, d_mixed)[None, None]
    },
    'dense': {'kernel': pooled.T @ d_logits, 'bias': d_logits.sum(0)},
  }
  keep = BATCH_NORM_MOMENTUM
  running = model_state['norm']
  unbiased = var * pixels / (pixels - 1)
  new_model_state = {
    'norm': {
      'mean': keep * running['mean'] + (1 - keep) * mean,
      'var': keep * running['var'] + (1 - keep) * unbiased,
    }
  }
  return float(loss), new_model_state, grads


# Quantizers.


class Quantizer(NamedTuple):
  """A, Q and the backward rules of one weight; all arrays have its shape."""

  preprocess: Callable[[Array], Array]  # w -> w_tilde
  quantize: Callable[[Array], Array]  # w_tilde -> w_hat
  straight_through: Callable[[Array, Array], Array]  # g_hat, w_tilde -> g_ste
  calibrate: Callable[[Array, Array], Array]  # w, g_tilde -> g


def everywhere(quantizer: Quantizer) -> dict[str, Quantizer]:
  """Returns a dict from the path of each quantizable leaf to `quantizer`."""
  return dict.fromkeys(QUANTIZED, quantizer)


def _inside(w_tilde: Array, clip: float | None) -> Array:
  if clip is None:
    return np.ones_like(w_tilde)
  return (np.abs(w_tilde) <= clip).astype(np.float64)


def dorefa(bits: int, clip: float | None = 1.0) -> Quantizer:
  """Makes equation (1); `calibrate` is eq. (4) as printed, twice dA/dW."""
  steps = 2**bits - 1

  def largest(w: Array) -> float:
    return float(np.abs(np.tanh(w)).max()) or 1.0

  return Quantizer(
    preprocess=lambda w: np.tanh(w) / (2 * largest(w)) + 0.5,
    quantize=lambda w_tilde: 2 * np.floor(steps * w_tilde + 0.5) / steps - 1,
    straight_through=lambda g_hat, w_tilde: g_hat * _inside(w_tilde, clip),
    calibrate=lambda w, g_tilde: g_tilde * (1 - np.tanh(w) ** 2) / largest(w),
  )


def bwn(
  per_channel: bool = False,
  channel_axis: int = -1,
  clip: float | None = 1.0,
  scaled_gradient: bool = True,
) -> Quantizer:
  """Makes equation (2); alpha = mean |W~| is constant in the backward pass."""

  def alpha(w_tilde: Array) -> Array:
    axes = tuple(range(w_tilde.ndim))
    if per_channel:
      channel = channel_axis % w_tilde.ndim
      axes = tuple(axis for axis in axes if axis != channel)
    return np.abs(w_tilde).mean(axes, keepdims=True)

  def straight_through(g_hat: Array, w_tilde: Array) -> Array:
    passed = g_hat * _inside(w_tilde, clip)
    return alpha(w_tilde) * passed if scaled_gradient else passed

  return Quantizer(
    preprocess=lambda w: w,
    quantize=lambda w_tilde: alpha(w_tilde) * np.where(w_tilde >= 0, 1.0, -1.0),
    straight_through=straight_through,
    calibrate=lambda w, g_tilde: g_tilde,
  )


# Networks of the meta quantizer. Each row is a coordinate: (N, 1) to (N, 1).


def fc_phi(
  rng: np.random.Generator,
  layers: int = 2,
  hidden: int = 100,
  biases: bool = False,
) -> tuple[Leaves, ...]:
  """Draws parameters of a linear stack with one input and one output."""
  sizes = [1, *[hidden] * (layers - 1), 1]
  phi = []
  for n_in, n_out in itertools.pairwise(sizes):
    layer = {'kernel': rng.normal(size=(n_in, n_out)) / np.sqrt(n_in)}
    if biases:
      layer['bias'] = 0.1 * rng.normal(size=n_out)
    phi.append(layer)
  return tuple(phi)


def lstm_phi(rng: np.random.Generator, hidden: int = 100) -> Tree:
  """Draws parameters of an LSTM with input size 1 and of its linear head."""

  def uniform(*shape: int) -> Array:
    return rng.uniform(-1, 1, shape) / np.sqrt(hidden)

  return {
    'lstm': {
      'input_kernel': uniform(1, 4 * hidden),
      'recurrent_kernel': uniform(hidden, 4 * hidden),
      'input_bias': uniform(4 * hidden),
      'recurrent_bias': uniform(4 * hidden),
    },
    'head': {'kernel': uniform(hidden, 1), 'bias': uniform(1)},
  }


def _activate(x: Array, activation: Activation) -> Array:
  if activation == 'relu':
    return np.maximum(x, 0.0)
  return np.tanh(x) if activation == 'tanh' else x


def _slope(x: Array, activation: Activation) -> Array:
  if activation == 'relu':
    return (x > 0.0).astype(np.float64)
  return 1 - np.tanh(x) ** 2 if activation == 'tanh' else np.ones_like(x)


def _fc_passes(
  phi: tuple[Leaves, ...], x: Array, activation: Activation
) -> tuple[list[Array], list[Array]]:
  """Returns the input and the output of every linear layer."""
  inputs: list[Array] = []
  outputs: list[Array] = []
  for layer in phi:
    inputs.append(_activate(outputs[-1], activation) if outputs else x)
    outputs.append(inputs[-1] @ layer['kernel'] + layer.get('bias', 0.0))
  return inputs, outputs


def fc(phi: tuple[Leaves, ...], x: Array, activation: Activation) -> Array:
  """Returns FCs(phi, sigma, x); the last layer has no activation."""
  return _fc_passes(phi, x, activation)[1][-1]


def fc_phi_grad(
  phi: tuple[Leaves, ...], x: Array, activation: Activation, cot: Array
) -> tuple[Leaves, ...]:
  """Returns d sum(cot * fc(phi, x)) / d phi."""
  inputs, outputs = _fc_passes(phi, x, activation)
  grads: list[Leaves] = []
  for i in reversed(range(len(phi))):
    grad = {'kernel': inputs[i].T @ cot}
    if 'bias' in phi[i]:
      grad['bias'] = cot.sum(0)
    grads.insert(0, grad)
    if i:
      cot = (cot @ phi[i]['kernel'].T) * _slope(outputs[i - 1], activation)
  return tuple(grads)


class LSTMState(NamedTuple):
  """Memory of one leaf, two arrays of shape (coordinates, hidden)."""

  h: Array
  c: Array


def _sigmoid(x: Array) -> Array:
  return 0.5 * (1 + np.tanh(0.5 * x))


def _gates(phi: Tree, x: Array, state: LSTMState) -> tuple[Array, ...]:
  lstm = phi['lstm']
  z = x @ lstm['input_kernel'] + lstm['input_bias']
  z = z + state.h @ lstm['recurrent_kernel'] + lstm['recurrent_bias']
  i, f, g, o = np.split(z, 4, axis=1)
  return _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)


def lstm(phi: Tree, x: Array, state: LSTMState) -> tuple[Array, LSTMState]:
  """Runs one step of the LSTM; returns head(LSTM(x)) and the new memory."""
  i, f, g, o = _gates(phi, x, state)
  c = f * state.c + i * g
  h = o * np.tanh(c)
  return h @ phi['head']['kernel'] + phi['head']['bias'], LSTMState(h, c)


def lstm_phi_grad(phi: Tree, x: Array, state: LSTMState, cot: Array) -> Tree:
  """Returns d sum(cot * lstm(phi, x)[0]) / d phi, with constant state."""
  i, f, g, o = _gates(phi, x, state)
  c = f * state.c + i * g
  d_h = cot @ phi['head']['kernel'].T
  d_c = d_h * o * (1 - np.tanh(c) ** 2)
  d_z = np.concatenate(
    [
      d_c * g * i * (1 - i),
      d_c * state.c * f * (1 - f),
      d_c * i * (1 - g**2),
      d_h * np.tanh(c) * o * (1 - o),
    ],
    axis=1,
  )
  return {
    'lstm': {
      'input_kernel': x.T @ d_z,
      'recurrent_kernel': state.h.T @ d_z,
      'input_bias': d_z.sum(0),
      'recurrent_bias': d_z.sum(0),
    },
    'head': {'kernel': (o * np.tanh(c)).T @ cot, 'bias': cot.sum(0)},
  }


# Estimators.


class Estimator(NamedTuple):
  """M_phi over all quantized leaves; each argument is a dict path -> array."""

  # leaves -> state
  init_state: Callable[[Leaves], Tree]
  # phi, g_hat, w_tilde, g_ste, state -> g_tilde, state
  apply: Callable[[Tree, Leaves, Leaves, Leaves, Tree], tuple[Leaves, Tree]]
  # phi, g_hat, w_tilde, g_ste, state, cot -> d sum(cot * g_tilde) / d phi
  phi_grad: Callable[[Tree, Leaves, Leaves, Leaves, Tree, Leaves], Tree]


# g_hat, w_tilde, g_ste -> factor, x. The estimator returns factor * net(x); the
# factor is a gradient, or 1.
Operands = Callable[[Array, Array, Array], tuple[Array | float, Array]]


def ste() -> Estimator:
  """Makes the estimator that returns g_ste; phi is ()."""
  return Estimator(
    init_state=lambda leaves: (),
    apply=lambda phi, g_hat, w_tilde, g_ste, state: (g_ste, state),
    phi_grad=lambda phi, g_hat, w_tilde, g_ste, state, cot: (),
  )


def _coordinatewise(
  net: Callable[[Tree, Array, Any], tuple[Array, Any]],
  net_phi_grad: Callable[[Tree, Array, Any, Array], Tree],
  zeros: Callable[[Array], Any],
  operands: Operands,
) -> Estimator:
  """Makes g_tilde = factor * net(phi, x); all leaves share phi."""

  def apply(
    phi: Tree, g_hat: Leaves, w_tilde: Leaves, g_ste: Leaves, state: Tree
  ) -> tuple[Leaves, Tree]:
    g_tilde, new_state = {}, {}
    for path in g_hat:
      factor, x = operands(g_hat[path], w_tilde[path], g_ste[path])
      out, new_state[path] = net(phi, x.reshape(-1, 1), state[path])
      g_tilde[path] = factor * out.reshape(x.shape)
    return g_tilde, new_state

  def phi_grad(
    phi: Tree,
    g_hat: Leaves,
    w_tilde: Leaves,
    g_ste: Leaves,
    state: Tree,
    cot: Leaves,
  ) -> Tree:
    grads = []
    for path in g_hat:
      factor, x = operands(g_hat[path], w_tilde[path], g_ste[path])
      out_cot = (cot[path] * factor).reshape(-1, 1)
      grads.append(net_phi_grad(phi, x.reshape(-1, 1), state[path], out_cot))
    return tree_map(lambda *xs: sum(xs), *grads)

  def init_state(leaves: Leaves) -> Tree:
    return {path: zeros(x) for path, x in leaves.items()}

  return Estimator(init_state, apply, phi_grad)


def _fc_estimator(activation: Activation, operands: Operands) -> Estimator:
  return _coordinatewise(
    net=lambda phi, x, memory: (fc(phi, x, activation), memory),
    net_phi_grad=lambda phi, x, memory, cot: fc_phi_grad(
      phi, x, activation, cot
    ),
    zeros=lambda x: (),
    operands=operands,
  )


def fc_grad(activation: Activation = None, use_ste: bool = False) -> Estimator:
  """Makes equation (9), FCs(g_hat); with `use_ste` FCs(g_ste)."""
  return _fc_estimator(
    activation,
    lambda g_hat, w_tilde, g_ste: (1.0, g_ste if use_ste else g_hat),
  )


def multi_fc(activation: Activation = None, use_ste: bool = False) -> Estimator:
  """Makes equation (10), g_hat * FCs(W~); `use_ste`: g_ste * FCs(W~)."""
  return _fc_estimator(
    activation,
    lambda g_hat, w_tilde, g_ste: (g_ste if use_ste else g_hat, w_tilde),
  )


def lstm_fc(
  hidden: int = 100, carry: bool = True, use_ste: bool = False
) -> Estimator:
  """Makes equation (11), g_hat * head(LSTM(W~)), coordinate by coordinate.

  The state is {path: LSTMState}; no gradient flows through it. With
  `carry=False` the state stays zero.
  """

  def zeros(x: Array) -> LSTMState:
    return LSTMState(np.zeros((x.size, hidden)), np.zeros((x.size, hidden)))

  def net(phi: Tree, x: Array, memory: LSTMState) -> tuple[Array, LSTMState]:
    out, new_memory = lstm(phi, x, memory)
    return out, new_memory if carry else memory

  return _coordinatewise(
    net=net,
    net_phi_grad=lstm_phi_grad,
    zeros=zeros,
    operands=lambda g_hat, w_tilde, g_ste: (
      g_ste if use_ste else g_hat,
      w_tilde,
    ),
  )


# Refinement, pi(g), without the learning rate.


class Refine(NamedTuple):
  """pi: `init` maps params to a state; `update` maps (g, state, params)."""

  init: Callable[[Tree], Tree]
  update: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]


class AdamState(NamedTuple):
  """The number of calls, and the uncorrected moments, trees like the params."""

  calls: int
  m: Tree
  v: Tree


def sgd() -> Refine:
  """Makes pi(g) = g."""
  return Refine(lambda params: (), lambda g, state, params: (g, state))


def adam(
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
) -> Refine:
  """Makes m_hat / (sqrt(v_hat) + eps) of g + `weight_decay` * params."""

  def init(params: Tree) -> AdamState:
    zeros = tree_map(np.zeros_like, params)
    return AdamState(0, zeros, zeros)

  def update(g: Tree, state: AdamState, params: Tree) -> tuple[Tree, AdamState]:
    g = tree_map(lambda x, p: x + weight_decay * p, g, params)
    calls = state.calls + 1
    m = tree_map(lambda m, x: b1 * m + (1 - b1) * x, state.m, g)
    v = tree_map(lambda v, x: b2 * v + (1 - b2) * x**2, state.v, g)
    refined = tree_map(
      lambda m, v: (m / (1 - b1**calls)) / (np.sqrt(v / (1 - b2**calls)) + eps),
      m,
      v,
    )
    return refined, AdamState(calls, m, v)

  return Refine(init, update)


# The iteration.


class Config(NamedTuple):
  """Constants of a run.

  Attributes:
    quantizers: path -> Quantizer; leaves without an entry keep full precision.
      `everywhere(quantizer)` uses one quantizer for all leaves.
    estimator: M_phi.
    refine: pi, one state over all leaves.
    learning_rate: alpha, a number or a function of the step, which starts at 0.
    meta_learning_rate: gamma, the learning rate of Adam for phi, likewise.
    phi_cotangent: Rule that maps the new g_hat to the gradient of W~' for phi.
  """

  quantizers: Mapping[str, Quantizer]
  estimator: Estimator
  refine: Refine
  learning_rate: float | Schedule
  meta_learning_rate: float | Schedule = 1e-3
  phi_cotangent: Literal['ste', 'estimator'] = 'ste'


class State(NamedTuple):
  """State between steps; `grads` are pending, not yet applied."""

  params: Tree
  model_state: Tree
  grads: Tree
  refine_state: Tree
  phi: Tree
  meta_opt_state: AdamState
  estimator_state: Tree
  step: int


class Aux(NamedTuple):
  """Intermediate results of a step."""

  loss: float
  phi_grads: Tree  # like phi
  g_tilde: Leaves  # path -> array, quantized leaves
  g: Leaves  # path -> array, all leaves, before refinement
  w_cotangent: Leaves  # path -> array, at W', quantized leaves
  w_hat: Tree  # like params: the weights that the loss used


class LateUpdate(NamedTuple):
  """W' and the intermediate results of the late update."""

  params: Tree
  refine_state: Tree
  estimator_state: Tree
  g_tilde: Leaves
  g: Leaves


def _at(rate: float | Schedule, count: int) -> float:
  return float(rate(count)) if callable(rate) else rate


def _meta_optimizer() -> Refine:
  return adam()


def quantized(config: Config, params: Tree) -> Tree:
  """Returns params, with Q(A(w)) in place of each quantized leaf w."""
  leaves = flatten(params)
  for path, quantizer in config.quantizers.items():
    leaves[path] = quantizer.quantize(quantizer.preprocess(leaves[path]))
  return unflatten(leaves)


def _estimator_inputs(
  config: Config, params: Tree, grads: Tree
) -> tuple[Leaves, Leaves, Leaves]:
  """Returns g_hat, w_tilde and g_ste of the quantized leaves."""
  leaves, flat_grads = flatten(params), flatten(grads)
  g_hat = {path: flat_grads[path] for path in config.quantizers}
  w_tilde = {p: q.preprocess(leaves[p]) for p, q in config.quantizers.items()}
  g_ste = {
    p: q.straight_through(g_hat[p], w_tilde[p])
    for p, q in config.quantizers.items()
  }
  return g_hat, w_tilde, g_ste


def _calibrate(config: Config, params: Tree, g_tilde: Leaves) -> Leaves:
  leaves = flatten(params)
  return {
    path: quantizer.calibrate(leaves[path], g_tilde[path])
    for path, quantizer in config.quantizers.items()
  }


def late_update(config: Config, state: State, phi: Tree) -> LateUpdate:
  """Applies equations (3) to (5) to the pending gradients."""
  inputs = _estimator_inputs(config, state.params, state.grads)
  g_tilde, estimator_state = config.estimator.apply(
    phi, *inputs, state.estimator_state
  )
  g = flatten(state.grads) | _calibrate(config, state.params, g_tilde)
  refined, refine_state = config.refine.update(
    unflatten(g), state.refine_state, state.params
  )
  rate = _at(config.learning_rate, state.step)
  params = tree_map(lambda w, pi: w - rate * pi, state.params, refined)
  return LateUpdate(params, refine_state, estimator_state, g_tilde, g)


def phi_loss(
  config: Config, phi: Tree, state: State, batch: Mapping[str, Any]
) -> float:
  """Returns the next loss for a given phi, equations (6) and (7)."""
  params = late_update(config, state, float64(phi)).params
  return loss_and_grads(quantized(config, params), state.model_state, batch)[0]


def init(
  config: Config,
  phi: Tree,
  params: Tree,
  model_state: Tree,
  batch: Mapping[str, Any],
) -> State:
  """Runs iteration 0 of Algorithm 1: computes gradients and updates nothing.

  Args:
    config: The run's constants.
    phi: Parameters of the estimator: () for `ste`, otherwise from `fc_phi` or
      `lstm_phi`.
    params: Full-precision weights, copied to float64.
    model_state: Running statistics, copied to float64.
    batch: The first batch.

  Returns:
    The state at step 0, with pending gradients and new batch statistics.
  """
  params, model_state, phi = map(float64, (params, model_state, phi))
  _, new_model_state, grads = loss_and_grads(
    quantized(config, params), model_state, batch
  )
  leaves = flatten(params)
  return State(
    params=params,
    model_state=new_model_state,
    grads=grads,
    refine_state=config.refine.init(params),
    phi=phi,
    meta_opt_state=_meta_optimizer().init(phi),
    estimator_state=config.estimator.init_state(
      {path: leaves[path] for path in config.quantizers}
    ),
    step=0,
  )


def step(
  config: Config, state: State, batch: Mapping[str, Any]
) -> tuple[State, Aux]:
  """Runs one iteration: late update, forward and backward, update of phi.

  Args:
    config: The run's constants.
    state: From `init` or the step before.
    batch: The batch of the loss that gives the gradient of phi.

  Returns:
    The next state, with the gradients at its `params`, and `Aux`.
  """
  late = late_update(config, state, state.phi)
  w_hat = quantized(config, late.params)
  loss, model_state, grads = loss_and_grads(w_hat, state.model_state, batch)

  # From the loss to W'.
  g_hat, w_tilde, g_ste = _estimator_inputs(config, late.params, grads)
  if config.phi_cotangent == 'ste':
    carried = g_ste
  else:
    carried, _ = config.estimator.apply(
      state.phi, g_hat, w_tilde, g_ste, late.estimator_state
    )
  w_cotangent = _calibrate(config, late.params, carried)

  # From W' to phi, with d pi(g) / d g = 1. Calibration multiplies g~ by a
  # diagonal matrix, so its transpose is the same multiplication.
  rate = _at(config.learning_rate, state.step)
  g_tilde_cotangent = _calibrate(
    config, state.params, {p: -rate * c for p, c in w_cotangent.items()}
  )
  phi_grads = config.estimator.phi_grad(
    state.phi,
    *_estimator_inputs(config, state.params, state.grads),
    state.estimator_state,
    g_tilde_cotangent,
  )
  meta_updates, meta_opt_state = _meta_optimizer().update(
    phi_grads, state.meta_opt_state, state.phi
  )
  gamma = _at(config.meta_learning_rate, state.step)
  phi = tree_map(lambda p, u: p - gamma * u, state.phi, meta_updates)

  new_state = State(
    params=late.params,
    model_state=model_state,
    grads=grads,
    refine_state=late.refine_state,
    phi=phi,
    meta_opt_state=meta_opt_state,
    estimator_state=late.estimator_state,
    step=state.step + 1,
  )
  return new_state, Aux(
    loss, phi_grads, late.g_tilde, late.g, w_cotangent, w_hat
  )
