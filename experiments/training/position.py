"""The position of a run: its state, its step, and the sums over its epoch."""

from typing import NamedTuple

import jax

import mq_jax
from experiments.training.steps import Steps


class Saved(NamedTuple):
  """The state in a checkpoint, with a leading axis of trials.

  Attributes:
    state: State of the train step.
    codes: Integer codes at the end of the last epoch, from which flips are
      counted.
  """

  state: mq_jax.State
  codes: dict[str, jax.Array]


def with_codes(steps: Steps, state: mq_jax.State) -> Saved:
  """Returns the state at the end of an epoch with its codes."""
  return Saved(state, jax.vmap(steps.train.codes)(state))


class Position(NamedTuple):
  """The position of a run, and the sums over its epoch so far.

  Checkpoints contain these fields by name.

  Attributes:
    step: Number of updates so far.
    loss_sum: Sum of the losses of this epoch, per trial.
    accuracy_sum: Sum of the training accuracies, 0 to 1 each, per trial.
    phi_grad_norm_sum: Sum of the norms of φ's gradients, per trial.
    seconds: Duration of these steps.
    tested: No step has run since the last test.
  """

  step: int
  loss_sum: list[float]
  accuracy_sum: list[float]
  phi_grad_norm_sum: list[float]
  seconds: float = 0.0
  tested: bool = True


def start_epoch(steps: Steps, step: int) -> Position:
  """Returns the position at the start of an epoch."""
  zeros = [0.0] * len(steps.seeds)
  return Position(step, zeros, zeros, zeros)


def is_untested(steps: Steps, position: Position) -> bool:
  """Returns True at the end of an epoch that is trained but not tested."""
  return position.step % steps.steps_per_epoch == 0 and not position.tested


def epochs_done(steps: Steps, position: Position) -> int:
  """Returns the number of epochs that are trained and tested."""
  epochs = position.step // steps.steps_per_epoch
  return epochs - is_untested(steps, position)
