"""The weights that a run has kept, from its checkpoint alone, and their audit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfbench import checkpoint, record
from nfbench.audit import Audit, audit
from nfbench.build import build_data, build_model
from nfbench.config import Experiment, restore
from nfbench.data.base import DataModule
from nfbench.density import DensityModel
from nfbench.errors import UsageError, elsewhere
from nfbench.nfe import meter_of
from nfbench.record import Record
from nfbench.soundness import judge


@dataclass(frozen=True)
class Trained:
    """A checkpoint's experiment, step, data and model with its weights, all on the CPU."""

    checkpoint: Path
    experiment: Experiment
    step: int
    data: DataModule
    model: DensityModel


@dataclass(frozen=True)
class Finding:
    """An audit, also in words, of which checkpoint, and the record it went to, if there is one."""

    audit: Audit
    verdict: tuple[str, ...]
    checkpoint: Path
    record: Path | None


def find_checkpoint(target: str, seed: int | None, root: Path) -> Path:
    """The checkpoint meant: a file, or the best of a run's folder or of TABLE/ROW/CELL[/SEED].

    Raises:
        UsageError: there is none.
    """
    check_no_record(Path(target))
    if Path(target).is_file():
        return Path(target)
    *names, last = record.run_names(target, root) or ("",)
    if not last.endswith(".pt"):
        names, last = [*names, last], "best.pt"
    if len(names) == 3:
        names.append(str(seed or 0))
    path = Path(target) / last if Path(target).is_dir() else root.joinpath("runs", *names, last)
    if len(names) == 4:
        if path.is_file():
            return path
        kept = root.joinpath("results", *names).with_suffix(".json")
        if kept.is_file():
            where = elsewhere(kept.relative_to(root), record.read(kept).provenance["command"])
            raise UsageError(f"{target}: expected a checkpoint, got no {path}; {where}")
    raise UsageError(
        f"{target}: expected a checkpoint, or a run that has kept one, as TABLE/ROW/CELL, "
        f"TABLE/ROW/CELL/SEED or its folder (for example demo/maf/moons); there is no {path}"
    )


def check_no_record(path: Path) -> None:
    """Refuses the file of a record, which holds no weights, and names the run that it is of.

    Raises:
        UsageError: it is one, by its name.
    """
    if path.suffix == ".json":
        run = path.parent if path.name == "record.json" else path.with_suffix("")
        *_, above, table, row, cell, seed = ("",) * 5 + run.parts
        named = above in ("results", "runs")
        name = f"{table}/{row}/{cell}/{seed}" if named else "TABLE/ROW/CELL/SEED"
        raise UsageError(
            f"{path}: expected a run or a checkpoint, got a record, which holds no weights; give "
            f"the name of its run, {name}"
        )


def read_checkpoint(path: Path) -> tuple[Experiment, dict[str, Any], int]:
    """The experiment, the weights and the step of a checkpoint.

    Raises:
        UsageError: the file is no checkpoint of a run, or names no experiment that there is.
    """
    state = checkpoint.load(path)
    if not isinstance(state, dict) or not {"experiment", "model", "step"} <= set(state):
        raise UsageError(
            f"{path}: expected a checkpoint that names its experiment, got another file, or one "
            "of an earlier version; run the cell again"
        )
    try:
        return restore(dict(state["experiment"])), dict(state["model"]), int(state["step"])
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: expected a checkpoint of a run: {error}") from error


def load_trained(
    target: str, *, seed: int | None = None, root: Path | str | None = None
) -> Trained:
    """What ``target`` names, as ``find_checkpoint`` has it, built anew and its weights loaded.

    ``root`` is the folder with ``experiments/``, by default the current one or one above it.

    Raises:
        UsageError: no such checkpoint, or one that does not say which experiment it is of.
    """
    path = find_checkpoint(target, seed, Path(root or record.find_root()))
    experiment, weights, step = read_checkpoint(path)
    data = build_data(experiment)
    data.setup()
    model = build_model(experiment, data.dataset)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(f"{path}: the flow is not what it was: {error}") from error
    return Trained(path, experiment, step, data, model)


def own_record(trained: Trained, root: Path) -> Record | None:
    """The finished record of just these weights, if there is one."""
    own = record.run_dir(trained.experiment, root) / "best.pt"
    place = record.record_path(trained.experiment, root)
    if trained.checkpoint.resolve() != own.resolve() or not place.is_file():
        return None
    kept = record.read(place)
    if kept.status != "done" or not trained.experiment.matches(kept):
        return None
    of_these = (trained.step, trained.data.fingerprint)
    return kept if (kept.model["best_step"], kept.data["fingerprint"]) == of_these else None


def inspect(target: str, *, seed: int | None = None, root: Path | None = None) -> Finding:
    """Audit a checkpoint; store the audit in the run's record if it is of that run's best weights.

    Raises:
        UsageError: no such checkpoint, or one that does not say which experiment it is of.
    """
    root = root or record.find_root()
    trained = load_trained(target, seed=seed, root=root)
    found = audit(trained.model, trained.data.test)
    kept = own_record(trained, root)
    place = None if kept is None else record.amend(kept, root, audit=dict(found))
    meter = meter_of(trained.model)
    verdict = tuple(judge(found, {} if meter is None else meter.describe()))
    return Finding(found, verdict, trained.checkpoint, place)
