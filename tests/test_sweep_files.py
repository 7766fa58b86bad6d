"""Sweep files: what they may say, how a mistake is told, and what is drawn from their spaces."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from harness import write_sweep

import nfbench
from nfbench.errors import UsageError
from nfbench.sweeps.space import Range, load_sweep, sweep_names
from nfbench.sweeps.study import DONE, FAILED, Outcome, Study, Trial

ROOT = Path(nfbench.__file__).parents[1]
RATE = {"low": 1e-4, "high": 1e-1, "log": True}
MIXED = {
    "training.learning_rate": RATE,
    "flow.layers": {"low": 1, "high": 5, "step": 2},
    "flow.hidden": [[8], [4, 4]],
}


def setting(trial: Trial, key: str) -> Any:
    """A setting of a trial."""
    return json.loads(dict(word.split("=") for word in trial.words)[key])


def value(trial: Trial) -> float:
    """Something to search: it falls with the distance from three layers."""
    return -abs(setting(trial, "flow.layers") - 3.0)


def search(root: Path, **keys: Any) -> list[Trial]:
    """All trials of a sweep, with values of our own in the place of training."""
    study = Study(load_sweep("small", write_sweep(root, **keys)))
    while True:
        with study.claim() as trial:
            if trial is None:
                return study.trials()
            study.tell(trial.number, Outcome(value=value(trial)))


def settings(trials: list[Trial]) -> list[tuple[Any, ...]]:
    """What all trials search: layers, hidden units and learning rates."""
    keys = ("flow.layers", "flow.hidden", "training.learning_rate")
    found = [dict(word.split("=") for word in trial.words) for trial in trials]
    return [tuple(words[key] for key in keys if key in words) for words in found]


def test_a_grid_is_every_combination_once_in_whatever_order(tmp_path: Path) -> None:
    space = {"flow.layers": {"low": 1, "high": 5, "step": 2}, "flow.hidden": [[8], [4, 4], [2]]}
    trials = search(tmp_path, space=space)
    assert len(trials) == 9
    assert set(settings(trials)) == set(product("135", ("[8]", "[4, 4]", "[2]")))
    assert all("training.max_steps=40" in trial.words for trial in trials)


def test_fewer_trials_of_a_grid_are_other_ones_for_another_seed(tmp_path: Path) -> None:
    space = {"flow.layers": list(range(1, 21))}
    chosen = [
        settings(search(tmp_path / str(i), space=space, trials=6, sampler_seed=seed))
        for i, seed in enumerate((0, 0, 1))
    ]
    assert len(set(chosen[0])) == 6
    assert chosen[0] == chosen[1]
    assert set(chosen[0]) != set(chosen[2])


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_seed_gives_the_trials_and_values_stay_in_their_ranges(
    sampler: str, tmp_path: Path
) -> None:
    found = [
        settings(
            search(tmp_path / str(i), space=MIXED, sampler=sampler, trials=12, sampler_seed=seed)
        )
        for i, seed in enumerate((0, 0, 1))
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]
    layers, hidden, rates = zip(*found[0], strict=True)
    assert set(layers) <= {"1", "3", "5"} and len(set(layers)) > 1
    assert set(hidden) == {"[8]", "[4, 4]"}
    numbers = sorted(map(float, rates))
    assert 1e-4 <= numbers[0] < 1e-3 < 1e-2 < numbers[-1] <= 1e-1
    assert len(set(numbers)) == 12


def test_random_trials_do_not_depend_on_who_draws_them(tmp_path: Path) -> None:
    keys = {"space": MIXED, "sampler": "random", "trials": 6}
    whole = settings(search(tmp_path / "a", **keys))
    sweep = load_sweep("small", write_sweep(tmp_path / "b", **keys))
    for _ in range(6):  # each by a process that has just begun
        study = Study(sweep)
        with study.claim() as trial:
            assert trial is not None
            study.tell(trial.number, Outcome(value=0.0))
    assert settings(Study(sweep).trials()) == whole


def test_tpe_learns_where_it_is_good(tmp_path: Path) -> None:
    space = {"flow.layers": {"low": 1, "high": 50}}
    trials = search(tmp_path, space=space, sampler="tpe", trials=30)
    early, late = (sum(map(value, part)) / 8 for part in (trials[:8], trials[-8:]))
    assert late > early + 5


def test_settings_that_come_again_take_over_the_outcome(tmp_path: Path) -> None:
    keys = {"space": {"flow.layers": [1, 2]}, "sampler": "random", "trials": 8}
    study = Study(load_sweep("small", write_sweep(tmp_path, **keys)))
    outcomes = [Outcome(value=-1.5, step=20, seconds=9.0), Outcome(reason="it failed")]
    while outcomes:
        with study.claim() as trial:
            assert trial is not None
            study.tell(trial.number, outcomes.pop())
    with study.claim() as trial:
        assert trial is None
    trials = study.trials()
    assert len(trials) == 8
    firsts = {t.words: t for t in reversed(trials)}
    assert {t.state for t in firsts.values()} == {DONE, FAILED}
    for trial in trials:
        first = firsts[trial.words]
        again = trial.number != first.number
        assert trial.state == first.state
        assert trial.outcome.value == first.outcome.value
        assert trial.outcome.same_as == (first.number if again else None)
        assert trial.outcome.seconds == (0.0 if again else first.outcome.seconds)


def test_whole_numbers_are_drawn_where_the_setting_is_one(tmp_path: Path) -> None:
    space = {"flow.layers": {"low": 1, "high": 3}, "training.learning_rate": {"low": 0, "high": 1}}
    sweep = load_sweep("small", write_sweep(tmp_path, space=space, sampler="random", trials=1))
    assert sweep.space["flow.layers"] == Range(1, 3, integer=True)
    assert sweep.space["training.learning_rate"] == Range(0.0, 1.0)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"samplr": "tpe"}, "small.yaml: samplr: unknown key; did you mean 'sampler'"),
        ({"sampler": "bayes"}, "sampler: expected 'grid' or 'random' or 'tpe', got 'bayes'"),
        ({"row": "tiny/mav"}, "small.yaml: unknown row 'mav' of tiny; did you mean 'maf'"),
        ({"cell": "pin"}, "unknown cell of tiny/maf; did you mean 'pinwheel'"),
        ({"fixed": {"training.max_step": 1}}, "max_step: unknown key; did you mean 'max_steps'"),
        ({"space": {}}, "space: expected at least one section.key"),
        ({"space": {"flow.layer": [1]}}, "space.flow.layer: .*unknown key; did you mean 'layers'"),
        ({"space": {"flow.layers": ["two"]}}, "space.flow.layers: .*expected int, got 'two'"),
        ({"space": {"flow.layers": []}}, "expected a list of values or"),
        ({"space": {"flow.layers": [2, 2]}}, "expected each value once, got 2, 2"),
        ({"space": {"training.learning_rate": [-1.0]}}, "expected at least 0.0, got -1.0"),
        ({"space": {"flow.scale": {"low": 0, "high": 1}}}, "space.flow.scale: "),
        ({"space": {"flow.layers": {"low": 1}}}, "space.flow.layers.high: missing"),
        ({"space": {"flow.layers": {"lo": 1}}}, "lo: unknown key; did you mean 'low'"),
        ({"space": {"flow.layers": {"low": 3, "high": 3}}}, "expected more than low, 3; got 3"),
        ({"space": {"flow.layers": {"low": 1, "high": 2.5}}}, "expected int, got 2.5"),
        ({"space": {"flow.layers": {"low": 1, "high": 4}}}, "a list of values or a step"),
        ({"space": {"flow.layers": {"low": 1, "high": 4, "step": 9}}}, "at most 3, got 9"),
        ({"space": {"training.max_steps": [1, 2]}}, "training.max_steps: .* fixed above"),
        ({"space": {"data.name": ["moons"]}}, "data.name: .*its values do not compare"),
        ({"trials": 5}, "trials: expected at most 4, as the grid has; got 5"),
        ({"trials": 0}, "trials: expected at least 1, got 0"),
        ({"sampler": "random"}, "trials: missing; the sampler random has no end"),
        (
            {"space": {"training.learning_rate": {"low": 0.0, "high": 1.0, "log": True}}},
            "learning_rate.low: expected more than 0 on a log scale",
        ),
        ({"space": {"training.learning_rate": RATE | {"step": 0.1}}}, "none on a log scale"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write_sweep(tmp_path, **keys)
    with pytest.raises(UsageError, match=words):
        load_sweep("small", tmp_path)
    assert not (tmp_path / "runs").exists()


def test_an_unknown_sweep_names_those_that_there_are(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    with pytest.raises(UsageError, match=r"unknown sweep 'smal'; did you mean 'small'"):
        load_sweep("smal", tmp_path)


@pytest.mark.parametrize("name", sweep_names(ROOT))
def test_every_sweep_here_loads_and_opens_with_what_it_is(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name)
    load_sweep(name, ROOT)
    text = (ROOT / "experiments" / "sweeps" / f"{name}.yaml").read_text()
    header = text[: text.index("\n\n")]
    assert all(line.startswith("# ") for line in header.splitlines())
    assert "# Cost: " in header and f"# Command: nfbench sweep {name}" in header
