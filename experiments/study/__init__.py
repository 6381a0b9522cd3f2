"""Grids of configurations: declared, planned, run in slices."""

from experiments.study.spec import Drop as Drop
from experiments.study.spec import Study as Study
from experiments.study.spec import both_protocols as both_protocols
from experiments.study.spec import in_protocol as in_protocol
