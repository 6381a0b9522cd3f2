"""Trains and tests one configuration, and resumes it."""

from experiments.training.divergence import TrainingDiverged as TrainingDiverged
from experiments.training.loop import Stopped as Stopped
from experiments.training.result import Result as Result
from experiments.training.summary import (
  print_next_commands as print_next_commands,
)
from experiments.training.summary import print_summary as print_summary
from experiments.training.train import train_and_evaluate as train_and_evaluate
