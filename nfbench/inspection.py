"""The audit of weights that a run has kept, from its checkpoint alone."""

from dataclasses import dataclass
from pathlib import Path

from nfbench import checkpoint, record
from nfbench.audit import Audit, audit
from nfbench.build import build_data, build_model
from nfbench.config import Experiment, restore
from nfbench.errors import UsageError


@dataclass(frozen=True)
class Finding:
    """An audit, the checkpoint audited, and the record it was stored in, if there is one."""

    audit: Audit
    checkpoint: Path
    record: Path | None


def find_checkpoint(target: str, root: Path) -> Path:
    """The checkpoint that is meant: a file, a run's folder, or TABLE/ROW/CELL[/SEED], seed 0.

    Raises:
        UsageError: there is none.
    """
    run = root / "runs" / target.removeprefix("runs/")
    looked = [Path(target), Path(target) / "best.pt", run / "best.pt", run / "0" / "best.pt"]
    for path in looked:
        if path.is_file():
            return path
    raise UsageError(
        f"{target}: expected a checkpoint, or a run that has kept one, as in "
        f"nfbench audit demo/maf/moons; looked for {looked[2]}"
    )


def inspect(target: str, *, root: Path | None = None) -> Finding:
    """Audit a checkpoint, and store the audit in the record of the run that the weights are of.

    Raises:
        UsageError: no such checkpoint, or one that does not say which experiment it is of.
    """
    root = root or record.find_root()
    path = find_checkpoint(target, root)
    state = checkpoint.load(path)
    if "experiment" not in state:
        raise UsageError(f"{path}: expected a checkpoint that names its experiment, got none")
    experiment = restore(state["experiment"])
    data = build_data(experiment)
    data.setup()
    model = build_model(experiment, data.dataset)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise UsageError(f"{path}: the flow is not what it was: {error}") from error
    found = audit(model, data.test)
    return Finding(found, path, store(found, experiment, state["step"], root))


def store(found: Audit, experiment: Experiment, step: int, root: Path) -> Path | None:
    """Put the audit into the run's record, if that is of the weights of this step."""
    path = record.record_path(experiment, root)
    if not path.is_file():
        return None
    kept = record.read(path)
    same = kept.status == "done" and experiment.matches(kept)
    if not same or kept.model["best_step"] != step:
        return None
    return record.amend(kept, dict(found), root)
