# SPDX-License-Identifier: Apache-2.0
"""The one training loop: any learner, any data, one process or many, stopped and continued at any moment.

Everything random follows from the seed, the epoch, the step, the process and the index of a sample, so nothing of it
needs to be stored: a run that was killed and started again writes the same bytes as one that was not, at the same
number of threads and processes.  Device, processes and gradient exchange are Lightning Fabric's; under `torchrun` each
process takes its part of every batch.
"""

from pc3dcli.train.config import Data, Learner, Position, TrainConfig
from pc3dcli.train.journal import Reporter, Run, TrainingError
from pc3dcli.train.loop import AfterEpoch, Measured, Result, measure_step, train

__all__ = [
    "AfterEpoch",
    "Data",
    "Learner",
    "Measured",
    "Position",
    "Reporter",
    "Result",
    "Run",
    "TrainConfig",
    "TrainingError",
    "measure_step",
    "train",
]
