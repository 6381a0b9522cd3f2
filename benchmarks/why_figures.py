"""Draws the two figures of docs/why.md.

python -m benchmarks.why_figures
"""

import argparse
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mq_jax

# Of Okabe and Ito.
BLUE, ORANGE, GREEN, PURPLE = '#0072B2', '#D55E00', '#009E73', '#CC79A7'
LEGEND: dict[str, Any] = {'frameon': False, 'fontsize': 9}
# The toy problem: one weight, whose levels are −1 and 1.
TOY = mq_jax.methods.binary()
START, ALPHA, STEPS = -0.82, 0.02, 60


def rounded(quantizer: mq_jax.Quantizer, w_tilde: jax.Array) -> jax.Array:
  """Returns Ŵ = Q(W̃)."""
  return mq_jax.dequantize(*quantizer.codes(w_tilde, ()))


def staircase(bits: int) -> tuple[np.ndarray, ...]:
  """Returns W̃, Ŵ, dŴ/dW̃ and the straight-through slope of `dorefa`."""
  quantizer = mq_jax.dorefa(bits)
  w_tilde = jnp.linspace(0, 1, 1201)
  w_hat, pullback = jax.vjp(lambda w: rounded(quantizer, w), w_tilde)
  ones = jnp.ones_like(w_tilde)
  through = quantizer.straight_through(ones, w_tilde, ())
  return tuple(map(np.asarray, (w_tilde, w_hat, *pullback(ones), through)))


def toy_loss(w: jax.Array) -> jax.Array:
  """Returns the loss of the toy problem, of the shape of `w`."""
  return (w - 1) ** 2 / 2


def chain_rule(_: Any, signals: mq_jax.Signals, state: Any) -> tuple[Any, Any]:
  """Returns g_hat · dŴ/dW̃ of the toy problem, and the state."""
  pullback = jax.vjp(lambda w: rounded(TOY, w), signals.w_tilde['w'])[1]
  return {'w': pullback(signals.g_hat['w'])[0]}, state


def trajectory(rule: mq_jax.GradientEstimator, alpha: float) -> np.ndarray:
  """Trains the weight of the toy problem, and returns W after each step."""
  train = mq_jax.make_train_step(
    lambda params, *_: (toy_loss(params['w']).sum(), ({}, {})),
    [('w', TOY)],
    rule,
    meta_optimizer=optax.adam(0.1),
  )
  state = train.init(jax.random.key(0), {'w': jnp.array([START])}, {}, {})
  weights = []
  for _ in range(STEPS + 1):
    weights.append(state.params['w'][0])
    state, _ = train.step(state, {}, alpha)
  return np.array(weights)


def trajectories() -> dict[str, np.ndarray]:
  """Returns the trajectory of each rule by label, from the fastest on."""
  ste, fc_grad = mq_jax.ste(), mq_jax.fc_grad(layers=1, init='identity')
  ede = mq_jax.estimators.ede(1, start=2, end=2)
  return {
    'straight-through, 3α': trajectory(ste, 3 * ALPHA),
    'learned (FCGrad)': trajectory(fc_grad, ALPHA),
    'straight-through': trajectory(ste, ALPHA),
    'tanh-like (EDE)': trajectory(ede, ALPHA),
    'derivative of Q': trajectory(ste._replace(apply=chain_rule), ALPHA),
  }


def draw_quantizer() -> Figure:
  """Draws Q of `dorefa`, and the slopes that multiply a gradient."""
  figure = Figure((8, 3.2), layout='constrained')
  left, right = figure.subplots(1, 2)
  for bits, color, lw in ((1, BLUE, 4), (2, ORANGE, 1.5)):
    w_tilde, w_hat, derivative, through = staircase(bits)
    left.plot(w_tilde, w_hat, color=color, lw=lw, label=f'{bits}-bit dorefa')
    right.plot(w_tilde, derivative, color=color, lw=lw)
  left.plot([0, 1], [-1, 1], '--', color='0.6', lw=1, label='without rounding')
  jumps = w_tilde[1:][np.diff(w_hat) > 0]  # Those of 2 bits.
  right.plot(jumps, 0 * jumps, 'o', mec=ORANGE, mfc='white', zorder=4)
  right.text(0.5, 0.1, 'derivative of Q: 0, none at the jumps', ha='center')
  right.plot(w_tilde, through, '--', color=GREEN, lw=2.5)
  right.text(0.5, 1.06, 'straight-through rule', color=GREEN, ha='center')
  left.set(title='forward: Ŵ = Q(W̃)', xlabel='W̃', ylabel='Ŵ')
  left.set_yticks([-1, -1 / 3, 1 / 3, 1], ['−1', '−⅓', '⅓', '1'])
  right.set(title='backward: ∂loss/∂W̃ = slope · ∂loss/∂Ŵ', xlabel='W̃')
  right.set(ylabel='slope', ylim=(-0.2, 1.3), yticks=[0, 1])
  left.legend(**LEGEND)
  return figure


def draw_loss(panel: Axes, end: float) -> None:
  """Draws the loss of the toy problem, with an arrow from START to `end`."""
  w = jnp.linspace(-1.5, 1.5, 1201)
  losses = toy_loss(rounded(TOY, w))
  panel.plot(w, toy_loss(w), '--', color='0.6', label='loss(W)')
  panel.plot(w, losses, color='black', lw=2.5, label='loss(Ŵ)')
  start = (START, losses[0])
  arrow = {'arrowstyle': '-|>', 'color': BLUE, 'lw': 2.5}
  panel.annotate('', (end, losses[0]), start, arrowprops=arrow)
  panel.plot(*start, 'o', color='black', ms=9)
  panel.text(START, 2.15, 'straight-through', color=BLUE)
  line = {'arrowstyle': '-', 'color': '0.5', 'shrinkB': 7}
  panel.annotate('derivative 0:\nno move', start, (-1.4, 0.2), arrowprops=line)
  panel.set(title='loss over one weight', xlabel='W', ylabel='loss')
  panel.legend(**LEGEND)


def draw_rules(weights: dict[str, np.ndarray]) -> Figure:
  """Draws the toy problem, and its weight in training with each rule."""
  figure = Figure((8, 3.2), layout='constrained')
  left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
  draw_loss(left, end=weights['straight-through'][13])
  colours = (ORANGE, GREEN, BLUE, PURPLE, 'black')
  for (name, w), color in zip(weights.items(), colours, strict=True):
    when = f'step {np.argmax(w >= 0)}' if w.max() >= 0 else 'never'
    right.plot(w, color=color, lw=2, label=f'{name}: {when}')
  right.axhline(0, color='0.5', lw=1, ls=':')
  right.text(STEPS, 0, 'Ŵ = 1\n\nŴ = −1', ha='right', va='center')
  right.set(title='the same weight in training', xlabel='step', ylabel='W')
  right.set_ylim(-0.9, 0.25)
  right.legend(**LEGEND, loc=(0.42, 0.13), title='Ŵ flips to 1 at')
  return figure


def main() -> None:
  """Writes the figures."""
  options = argparse.ArgumentParser(description=__doc__)
  options.add_argument('--folder', type=pathlib.Path, default='docs/figures')
  folder = options.parse_args().folder
  draw_quantizer().savefig(folder / 'why-quantizer.png', dpi=150)
  draw_rules(trajectories()).savefig(folder / 'why-slopes.png', dpi=150)


if __name__ == '__main__':
  main()
