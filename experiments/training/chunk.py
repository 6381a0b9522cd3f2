"""A chunk of steps: one compiled program, or a loop on the host.

Batches come from the pipeline. All trials of a run take the same number of
steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

import mq_jax
from experiments.common import parallel
from experiments.common.placement import Placement
from experiments.data.pipeline import Batch, Pipeline, TracedBatches

Array = jax.Array


class Totals(NamedTuple):
  """Sums over the steps of a chunk, with a leading axis of trials.

  A chunk may end early after a step that is not finite.

  Attributes:
    steps: Number of steps up to the first one that is not finite, int32.
    loss: Sum of their losses.
    accuracy: Sum of their training accuracies, each from 0 to 1.
    phi_grad_norm: Sum of the norms of φ's gradients.
    finite: True if all losses and gradients were finite.
  """

  steps: Array
  loss: Array
  accuracy: Array
  phi_grad_norm: Array
  finite: Array


class Inputs(NamedTuple):
  """Arrays that every step of a run receives.

  Attributes:
    rate: `config.learning_rate`.
    teacher: Variables of the teacher.
  """

  rate: Any
  teacher: dict[str, Any]


Carry = tuple[mq_jax.State, Totals]
RunChunk = Callable[[mq_jax.State, int, int], Carry]


def make_run(
  step_at: Callable[[mq_jax.State, Batch, Inputs], tuple[mq_jax.State, Any]],
  inputs: Inputs,
  pipeline: Pipeline,
  seeds: tuple[int, ...],
  mesh: Mesh,
  placement: Placement,
) -> RunChunk:
  """Makes the function that runs a chunk of steps within one epoch.

  Args:
    step_at: Step of one trial.
    inputs: Inputs of every step.
    pipeline: Data of the run.
    seeds: Seed of each trial.
    mesh: Devices of the run.
    placement: Where states are on the devices.
  """

  def advance(carry: Carry, batch: Batch, inputs: Inputs) -> Carry:
    state, totals = carry
    state, metrics = step_at(state, batch, inputs)
    return state, Totals(
      totals.steps + totals.finite.astype(jnp.int32),
      totals.loss + metrics['loss'].astype(jnp.float32),
      totals.accuracy + metrics['accuracy'].astype(jnp.float32),
      totals.phi_grad_norm + metrics['phi_grad_norm'].astype(jnp.float32),
      totals.finite & metrics['finite'],
    )

  # On CPU, a convolution in a loop of XLA is about forty times slower than in a
  # loop of Python. XLA would also compute the batch again for each reader.
  if pipeline.traced is None or jax.default_backend() == 'cpu':
    run_chunk = _host_loop(advance, pipeline, seeds, placement)
  else:
    run_chunk = _device_loop(
      advance, pipeline.traced, pipeline.steps_per_epoch, seeds, mesh, placement
    )

  on_devices = parallel.replicated(inputs, mesh)

  def run(state: mq_jax.State, first: int, steps: int) -> Carry:
    epoch = first // pipeline.steps_per_epoch
    if epoch != (first + steps - 1) // pipeline.steps_per_epoch:
      raise ValueError(
        f'{steps} steps from step {first} on are not within one epoch.'
      )
    count = len(seeds)
    # Each row has a buffer of its own, because all of them are donated.
    loss, accuracy, norm = jnp.zeros((3, count), jnp.float32)
    no_steps, finite = jnp.zeros(count, jnp.int32), jnp.ones(count, bool)
    totals = Totals(no_steps, loss, accuracy, norm, finite)
    carry = placement.put(state), parallel.replicated(totals, mesh)
    # An implicit transfer would make the host wait for the device, or the
    # device for the host.
    with jax.transfer_guard('disallow'):
      return run_chunk(carry, on_devices, first, steps)

  return run


def _host_loop(
  advance: Callable[[Carry, Batch, Inputs], Carry],
  pipeline: Pipeline,
  seeds: tuple[int, ...],
  placement: Placement,
) -> Callable[[Carry, Inputs, int, int], Carry]:
  """Runs steps one by one; trials take turns."""
  on_cpu = jax.default_backend() == 'cpu'

  def keep(carry: Carry) -> Carry:
    return placement.keep(carry[0], trial_axes=0), carry[1]

  jitted_advance = jax.jit(
    lambda carry, batch, inputs: keep(advance(carry, batch, inputs)),
    donate_argnums=0,
  )
  split = jax.jit(
    lambda carry: [keep(part) for part in parallel.split(carry, len(seeds))]
  )

  @jax.jit
  def stack(carries: Sequence[Carry]) -> Carry:
    state, totals = parallel.stack(carries)
    return placement.keep(state), totals

  def run_chunk(carry: Carry, inputs: Inputs, first: int, steps: int) -> Carry:
    carries = split(carry)
    for leaf in jax.tree.leaves(carry):
      leaf.delete()
    for step in range(first, first + steps):
      for i, seed in enumerate(seeds):
        # A pipeline may move its batches to the devices in any way.
        with jax.transfer_guard('allow'):
          batch = pipeline.train(seed, step + 1)
        carries[i] = jitted_advance(carries[i], batch, inputs)
      # Reading the flag would make an accelerator wait for the next batch.
      if on_cpu and not all(totals.finite for _, totals in carries):
        break
    return stack(carries)

  return run_chunk


def _device_loop(
  advance: Callable[[Carry, Batch, Inputs], Carry],
  traced: TracedBatches,
  steps_per_epoch: int,
  seeds: tuple[int, ...],
  mesh: Mesh,
  placement: Placement,
) -> Callable[[Carry, Inputs, int, int], Carry]:
  """Runs a chunk as one program; trials are a batch axis."""

  def step_of_trial(
    trial: tuple[mq_jax.State, Totals, Any], shared: Any
  ) -> Carry:
    state, totals, context = trial
    images, inputs = shared
    batch = traced.batch(images, context, state.step + 1)
    return advance((state, totals), batch, inputs)

  step_of_trials = parallel.over_trials(step_of_trial, len(seeds))

  def next_carry(carry: Carry, shared: Any, contexts: Any) -> Carry:
    state, totals = step_of_trials((*carry, contexts), shared)
    return placement.keep(state), totals

  def chunk(carry: Carry, shared: Any, contexts: Any, steps: Array) -> Carry:
    return lax.while_loop(
      lambda carry: (carry[1].steps[0] < steps) & jnp.all(carry[1].finite),
      lambda carry: next_carry(carry, shared, contexts),
      carry,
    )

  jitted_chunk = jax.jit(chunk, donate_argnums=0)
  make_contexts = jax.jit(jax.vmap(traced.context, in_axes=(0, None)))

  def run_chunk(carry: Carry, inputs: Inputs, first: int, steps: int) -> Carry:
    seed_array, epoch, limit = parallel.replicated(
      (
        np.asarray(seeds, np.int32),
        np.int32(first // steps_per_epoch),
        np.int32(steps),
      ),
      mesh,
    )
    contexts = make_contexts(seed_array, epoch)
    return jitted_chunk(carry, (traced.shared, inputs), contexts, limit)

  return run_chunk
