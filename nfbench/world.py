"""The processes that a run is spread over, as what started them says. Imports no torch.

`srun` with several tasks or `torchrun` starts them; nothing else does.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

# The variables of size, rank, rank on the node, and either nodes or processes of a node. SLURM's
# are those of a step, which a batch script has not: what it runs without srun is alone.
SRUN = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES")
TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class World:
    """How many processes there are, on how many nodes, and this one's place among them."""

    size: int = 1
    rank: int = 0
    local_rank: int = 0
    n_nodes: int = 1
    launcher: str | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0


def world(environ: Mapping[str, str] = os.environ) -> World:
    """The processes that a launcher's variables tell of; one if there was no launcher."""
    if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        size, rank, local_rank, n_nodes = (int(environ[name]) for name in SRUN)
        return World(size, rank, local_rank, n_nodes, "srun")
    if "TORCHELASTIC_RUN_ID" in environ and int(environ.get("WORLD_SIZE", 1)) > 1:
        size, rank, local_rank, local_size = (int(environ[name]) for name in TORCHRUN)
        return World(size, rank, local_rank, size // local_size, "torchrun")
    return World()
