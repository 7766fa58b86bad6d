"""Where a run computes: its device, and Lightning set up for it and for its processes."""

import logging
import os
import warnings
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy

from nfbench.errors import UsageError
from nfbench.world import World, world


@dataclass(frozen=True)
class Means:
    """How a run computes, none of which is a setting of an experiment.

    `shard` gives each of several processes the optimizer's state of its part of the weights.
    """

    device: torch.device
    compile: bool = False
    shard: bool = False


class SameWeights(DDPStrategy):
    """Lightning's processes without its wrapper: the module averages its one flat gradient itself.

    One sum of one vector for each step replaces buckets and hooks, and many optimizer steps fit
    into what Lightning takes for one.
    """

    def configure_ddp(self) -> None:
        """Leave the module as it is."""


def trainer_settings(world: World) -> dict[str, Any]:
    """What a Trainer is told so that it joins the other processes."""
    if world.size == 1:
        return {"devices": 1}
    # Lightning's own requeueing saves inside the signal's handler, where processes can wait for
    # one another for ever.
    slurm = world.launcher == "srun"
    environment = SLURMEnvironment(auto_requeue=False) if slurm else TorchElasticEnvironment()
    return {
        "devices": world.size // world.n_nodes,
        "num_nodes": world.n_nodes,
        "strategy": SameWeights(cluster_environment=environment),
    }


def trainer(
    device: torch.device, callbacks: list[pl.Callback], logger: Logger | None = None
) -> pl.Trainer:
    """Lightning as it is used here: it drives chunks and validations; files and bars are ours."""
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        max_epochs=-1,
        callbacks=callbacks,
        logger=logger or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,  # in which no divergence of a field can be found by autograd
        **trainer_settings(world()),
    )


def torch_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is the GPU if there is one.

    Raises:
        UsageError: if there is no such device.
    """
    here = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if name == "auto":
        name = here[-1]
    if name not in here:
        raise UsageError(f"device: expected auto or one of {', '.join(here)}; got {name!r}")
    # A convolution that rounds its factors to ten bits moves likelihoods by hundredths of nats.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if name == "cpu":
        # Adam looks for a GPU at every step; the way Lightning sets here takes it 50 us.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
        return torch.device(name)
    place = torch.device(name, world().local_rank % torch.cuda.device_count())
    torch.cuda.set_device(place)
    return place


def quiet_lightning() -> None:
    """Keep Lightning's advice, meant for loaders with workers, out of the log."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for module in ("pytorch_lightning", "lightning_fabric"):
        warnings.filterwarnings("ignore", module=module)
