"""Precision, threads and randomness of the tests: set by fixtures, put back afterwards."""

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cluster as slurm
import pytest
import torch
from harness import GAUSSIAN, write_table

# Other libraries, with which test_peers*.py compare: collected where all are installed.
PEERS = ("nflows", "normflows", "pyro", "zuko")
collect_ignore_glob = [] if all(find_spec(name) for name in PEERS) else ["test_peers*.py"]

# A shell has jobs in its background ignore Ctrl-C, and what they start does so too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for SLURM comes first, so that other workers compute meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("slurm") is None)


@pytest.fixture(scope="session", autouse=True)
def no_wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is tracked, and no key, netrc or setting of W&B of this machine is seen."""
    home = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name in ("CACHE", "CONFIG", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(home / name.lower()))
        patch.setenv("NETRC", str(home / "netrc"))
        patch.setenv("WANDB_MODE", "disabled")
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors are small: more threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test draws the same numbers, whichever tests ran before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """New tensors and modules are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[slurm.Cluster]:
    """A SLURM of four nodes on this machine, one for all tests of a worker."""
    if not slurm.installed():
        pytest.skip("needs SLURM: slurm/local-cluster install")
    with slurm.running() as cluster:
        yield cluster


@pytest.fixture
def cluster(
    running_cluster: slurm.Cluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[slurm.Cluster]:
    """The cluster with nothing in its queue, which the test's own process sees as its own."""
    for name in slurm.strays():
        monkeypatch.delenv(name)
    for name, value in running_cluster.environment().items():
        monkeypatch.setenv(name, value)
    yield running_cluster
    running_cluster.cancel_all()


@pytest.fixture
def slurm_root(cluster: slurm.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a tiny table and no data, of which `nfbench` submits to the cluster."""
    write_table(tmp_path, gaussian=GAUSSIAN)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("NFBENCH_ROOT", str(tmp_path))
    monkeypatch.setenv("NFBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path
