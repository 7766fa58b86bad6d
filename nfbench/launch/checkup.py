"""What a node sees, told in one line of JSON: `python -m nfbench.launch.checkup FOLDER NONCE`.

Runs within a job of `nfbench slurm doctor`, once on each node. Imports torch.
"""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MARK = "nfbench-checkup "
TOKEN, ANSWER = "token.txt", "answer-{}.txt"
WANDB_SECONDS = 3.0
WANDB_URL = "https://api.wandb.ai"


def look(folder: Path, nonce: str) -> dict[str, Any]:
    """All that is asked of a node; what fails is told as `ERROR: ...`."""
    task = int(os.environ.get("SLURM_PROCID", "0"))
    first = os.environ.get("NFBENCH_FIRST_NODE", "")
    return {
        "nonce": nonce,
        "node": os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        "task": task,
        "time": time.time(),
        "token": attempt(lambda: (folder / TOKEN).read_text()),
        "wrote": attempt(lambda: (folder / ANSWER.format(task)).write_text(nonce)),
        "first": attempt(lambda: socket.getaddrinfo(first, None)[0][4][0]),
        "cpus": len(os.sched_getaffinity(0)),
        "free": attempt(lambda: shutil.disk_usage(folder).free),
        "data": attempt(data),
        "wandb": attempt(reach_wandb),
        "versions": attempt(versions),
        "gpus": attempt(gpus),
    }


def attempt(call: Callable[[], Any]) -> Any:
    """What a call gives, or its error on one line."""
    try:
        return call()
    except Exception as error:
        return f"ERROR: {type(error).__name__}: {' '.join(str(error).split())}"


def data() -> dict[str, Any]:
    """The folder of the data files, and whether it is there."""
    from nfbench.data import data_root

    return {"root": str(data_root()), "there": data_root().is_dir()}


def reach_wandb() -> str:
    """The address of W&B, or of the proxy before it, after a connection to it."""
    url = os.environ.get("WANDB_BASE_URL") or WANDB_URL
    via = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or url
    parts = urlsplit(via)
    host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    socket.create_connection((host, port), timeout=WANDB_SECONDS).close()
    return f"{host}:{port}"


def versions() -> dict[str, str]:
    """The interpreter, this package and torch."""
    import torch

    import nfbench

    return {
        "python": sys.version.split()[0],
        "nfbench": nfbench.__version__,
        "package": str(Path(nfbench.__file__).parent),
        "torch": torch.__version__,
    }


def gpus() -> dict[str, Any]:
    """How many GPUs torch sees, and whether each can hold a number."""
    import torch

    count = torch.cuda.device_count()
    for index in range(count):
        torch.zeros(1, device=f"cuda:{index}").item()
    names = [torch.cuda.get_device_name(index) for index in range(count)]
    return {"count": count, "names": names, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}


if __name__ == "__main__":
    sys.stdout.write(f"{MARK}{json.dumps(look(Path(sys.argv[1]), sys.argv[2]))}\n")
