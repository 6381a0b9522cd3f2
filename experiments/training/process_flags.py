"""Flags that connect several processes into one run (docs/devices.md)."""

from absl import flags

from experiments.common import processes

DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'Train in all processes of this job of SLURM, Open MPI, Kubernetes or Cloud'
  ' TPU. JAX finds them.',
)
COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'HOST:PORT of process 0, to train in several processes that were started by'
  ' hand, with --processes and --process_id.',
)
PROCESSES = flags.DEFINE_integer('processes', None, 'Number of processes.')
PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Number of this process, from 0.'
)
PEER_TIMEOUT = flags.DEFINE_integer(
  'peer_timeout',
  processes.PEER_TIMEOUT,
  'Seconds without a heartbeat after which a process counts as dead, and the'
  ' others end.',
)


def start() -> None:
  """Connects the processes that the command line names.

  Raises:
    UserError: If the flags do not fit each other, or the processes cannot be
      connected.
  """
  processes.start(
    is_distributed=DISTRIBUTED.value,
    coordinator=COORDINATOR.value,
    processes=PROCESSES.value,
    process_id=PROCESS_ID.value,
    peer_timeout=PEER_TIMEOUT.value,
  )
