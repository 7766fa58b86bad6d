"""The model of an earlier run, from which another one is trained."""

import copy
from pathlib import Path

from nfbench import checkpoint, record
from nfbench.config import Experiment, restore
from nfbench.density import DensityModel
from nfbench.errors import UsageError


def load_teacher(experiment: Experiment, model: DensityModel, root: Path) -> DensityModel:
    """A copy of the model with the best weights of the run ``training.teacher``, fixed.

    That is TABLE/ROW, TABLE/ROW/CELL or TABLE/ROW/CELL/SEED, the cell and the seed being those of
    the experiment unless given; or the file of a checkpoint.

    Raises:
        UsageError: if there is no such run, if it has not ended, or if its flow, data or
            preprocessing are others.
    """
    where = f"{experiment.table}/{experiment.row}: training.teacher"
    path = find_weights(experiment, root, where)
    state = checkpoint.load(path)
    if not isinstance(state, dict) or not {"experiment", "model"} <= set(state):
        raise UsageError(f"{where}: expected a checkpoint of a run, got another file, {path}")
    theirs = restore(dict(state["experiment"]))
    for key in ("flow", "preprocess"):
        ours, other = getattr(experiment, key), getattr(theirs, key)
        if ours != other:
            raise UsageError(f"{where}: expected the same {key}, {ours}; got {other} of {path}")
    ours, other = [(e.data.name, e.data.seed, e.data.condition) for e in (experiment, theirs)]
    if ours != other:
        raise UsageError(f"{where}: expected the same data, {ours}; got {other} of {path}")
    teacher = copy.deepcopy(model)
    try:
        teacher.load_state_dict(state["model"])
    except RuntimeError as error:
        raise UsageError(f"{where}: {path}: the flow is not what it was: {error}") from error
    return teacher.eval().requires_grad_(False)


def find_weights(experiment: Experiment, root: Path, where: str) -> Path:
    """The file with the teacher's weights, which no process is still changing."""
    target = str(experiment.training.teacher)
    if Path(target).is_file():
        return Path(target)
    names = target.split("/")
    names += [experiment.cell, str(experiment.seed)][max(0, len(names) - 2) :]
    path = root.joinpath("runs", *names, "best.pt")
    place = root.joinpath("results", *names).with_suffix(".json")
    if not (path.is_file() and place.is_file() and record.read(place).status == "done"):
        raise UsageError(
            f"{where}: expected a run that is done, as TABLE/ROW[/CELL[/SEED]], or a checkpoint; "
            f"got {target!r}, and there is no {path} with a record; first nfbench run "
            f"{'/'.join(names[:2])} {names[2]} --seed {names[-1]}"
        )
    return path
