"""A sweep from its file to its record: validation selects, and the winner alone is tested."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from harness import GAUSSIAN, MAF, changed, write_sweep, write_table

from nfbench import record
from nfbench.cli import main
from nfbench.config import load
from nfbench.data.base import DataModule
from nfbench.errors import UsageError
from nfbench.module import DensityModule
from nfbench.run import run
from nfbench.signals import InterruptedRunError
from nfbench.sweeps import result
from nfbench.sweeps.pages import check, markdown, render
from nfbench.sweeps.result import Result
from nfbench.sweeps.space import load_sweep
from nfbench.sweeps.study import DONE, FAILED, Study
from nfbench.sweeps.trial import attempt
from nfbench.sweeps.work import work

FAST = {"training.max_steps": 20}


def search(root: Path, **keys: Any) -> Result:
    """A whole sweep in this process."""
    write_sweep(root, **{"fixed": FAST, **keys})
    assert work(load_sweep("small", root), device="cpu")
    return result.read(root / "results/sweeps/small.json")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a finished sweep of four trials, one of which overflows."""
    root = tmp_path_factory.mktemp("swept")
    rates = [0.01, 1e30]
    search(root, space={"flow.layers": [1, 2], "training.learning_rate": rates}, sampler_seed=1)
    return root


@pytest.fixture
def root(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("NFBENCH_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def found(root: Path) -> Result:
    return result.read(root / "results/sweeps/small.json")


class Sealed:
    """A test split that can be moved to a device, and nothing else."""

    def to(self, device: object) -> "Sealed":
        return self


def sealed_setup(setup: Callable[..., None]) -> Callable[..., None]:
    def sealed(self: DataModule, stage: str | None = None) -> None:
        setup(self, stage)
        self.test = Sealed()

    return sealed


def test_a_trial_never_touches_the_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path, maf=MAF, gaussian=GAUSSIAN)
    monkeypatch.setattr(DataModule, "setup", sealed_setup(DataModule.setup))
    trained = load("tiny/maf", "pinwheel", 0, ["training.max_steps=20"], tmp_path)
    fitted = load("tiny/gaussian", "pinwheel", root=tmp_path)
    for experiment in (trained, fitted):
        outcome = attempt(experiment, tmp_path, device="cpu", threads=1, bar=False)
        assert outcome.reason is None and outcome.value is not None
        assert not record.record_path(experiment, tmp_path).exists()
        with pytest.raises((TypeError, AttributeError)):  # as a run does
            run(experiment, root=tmp_path, device="cpu")


def test_the_test_split_is_evaluated_once_in_a_whole_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = []
    begin = DensityModule.on_test_start
    monkeypatch.setattr(
        DensityModule, "on_test_start", lambda self: (tests.append(self.step), begin(self))
    )
    found = search(tmp_path, space={"flow.layers": [1, 2]})
    assert work(load_sweep("small", tmp_path), device="cpu")
    assert tests == [20]
    records = [p.parent.name for p in (tmp_path / "runs").rglob("record.json")]
    assert records == [record.run_dir(found.run, tmp_path).name]
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["sweeps"]


def test_neither_trials_nor_the_winner_are_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    search(tmp_path, space={"flow.layers": [1, 2]})
    assert list(tmp_path.rglob("*.wandb")) == []


def test_the_best_validation_wins_and_is_that_of_an_ordinary_run(
    found: Result, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    done = [trial for trial in found.trials if trial["state"] == DONE]
    assert found.winner == max(done, key=lambda trial: trial["value"])["number"]
    assert found.run == record.read(record.record_path(found.run, root))
    elsewhere = write_table(tmp_path_factory.mktemp("elsewhere"), maf=MAF)
    for trial in done:
        experiment = load("tiny/maf", "pinwheel", 0, trial["overrides"], elsewhere)
        whole = run(experiment, root=elsewhere, device="cpu")
        assert trial["value"] == whole.metrics["val/log_likelihood"]
        assert (trial["step"], trial["steps"]) == (20, 20)
    assert found.run.metrics["val/log_likelihood"] == found.trials[found.winner]["value"]


def test_a_trial_that_fails_is_told_with_its_reason_and_stops_nothing(found: Result) -> None:
    failed = [trial for trial in found.trials if trial["state"] == FAILED]
    assert len(failed) == 2 and len(found.trials) == 4
    for trial in failed:
        assert "training.learning_rate=1e+30" in trial["overrides"]
        assert trial["value"] is None
        assert "loss is" in trial["reason"] or "log-likelihood" in trial["reason"]


def test_settings_that_cannot_be_built_fail_as_a_trial(tmp_path: Path) -> None:
    found = search(tmp_path, space={"data.batch_size": [20, 10**7]})
    reasons = [trial["reason"] for trial in found.trials if trial["state"] == FAILED]
    assert len(reasons) == 1 and "data.batch_size: expected 1 to" in reasons[0]


def test_a_sweep_without_a_number_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no trial has a number; the first: .*loss is"):
        search(tmp_path, space={"training.learning_rate": [1e30]})
    assert not (tmp_path / "results").exists()


def test_an_error_that_nobody_foresaw_fails_the_trial_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimize = DensityModule.optimize

    def wide(self: DensityModule, *arguments: Any, **others: Any) -> torch.Tensor:
        if any(len(parameter) == 9 for parameter in self.trained):
            raise RuntimeError("nobody foresaw nine")
        return optimize(self, *arguments, **others)

    monkeypatch.setattr(DensityModule, "optimize", wide)
    found = search(tmp_path, space={"flow.hidden": [[8], [9]]})
    assert {trial["state"] for trial in found.trials} == {DONE, FAILED}
    (reason,) = [trial["reason"] for trial in found.trials if trial["state"] == FAILED]
    assert reason.startswith("RuntimeError: nobody foresaw nine")
    assert "Traceback" in caplog.text


def test_a_lost_accelerator_is_another_process_s_to_try_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: DensityModule, *_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(DensityModule, "optimize", lost)
    write_sweep(tmp_path, fixed=FAST, space={"flow.layers": [1]})
    for _ in range(3):
        with pytest.raises(RuntimeError, match="CUDA error"):
            work(load_sweep("small", tmp_path), device="cpu")
    with pytest.raises(UsageError, match="3 processes died of it"):
        work(load_sweep("small", tmp_path), device="cpu")


def test_an_attempt_that_a_signal_interrupts_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise InterruptedRunError(SIGTERM)

    write_sweep(tmp_path, fixed=FAST, space={"flow.layers": [1]})
    with monkeypatch.context() as patch:
        patch.setattr(DensityModule, "optimize", interrupt)
        for _ in range(5):
            with pytest.raises(InterruptedRunError):
                work(load_sweep("small", tmp_path), device="cpu")
    assert work(load_sweep("small", tmp_path), device="cpu")


def test_a_trial_that_another_process_runs_is_left_to_it(tmp_path: Path) -> None:
    sweep = load_sweep("small", write_sweep(tmp_path, fixed=FAST, space={"flow.layers": [1, 2]}))
    with Study(sweep).claim() as trial:
        assert trial is not None
        assert not work(sweep, device="cpu")
        states = {t.number: t.state for t in Study(sweep).trials()}
        assert states == {trial.number: "running", 1 - trial.number: DONE}
        assert not (tmp_path / "results").exists()
    assert work(sweep, device="cpu")
    assert len(Study(sweep).trials()) == 2


def test_one_process_alone_ends_the_sweep(tmp_path: Path) -> None:
    sweep = load_sweep("small", write_sweep(tmp_path, fixed=FAST, space={"flow.layers": [1]}))
    sweep.folder.mkdir(parents=True)
    with FileLock(sweep.folder / "end.lock"):
        assert not work(sweep, device="cpu")
    assert not (tmp_path / "results").exists()
    assert work(sweep, device="cpu")


def test_data_that_are_missing_are_told_before_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFBENCH_DATA", str(tmp_path / "data"))
    with pytest.raises(UsageError, match="data set power is missing"):
        search(tmp_path, fixed=FAST | {"data.name": "power"})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"space": {"flow.layers": [1, 3], "training.learning_rate": [0.01, 1e30]}},
        {"fixed": {"training.max_steps": 21}},
        {"sampler_seed": 2},
        {"seed": 1},
    ],
)
def test_a_sweep_that_has_changed_is_refused(root: Path, change: dict[str, Any]) -> None:
    keys = {
        "fixed": FAST,
        "space": {"flow.layers": [1, 2], "training.learning_rate": [0.01, 1e30]},
        "sampler_seed": 1,
    }
    write_sweep(root, **keys | {"title": "Another title"})
    assert work(load_sweep("small", root), device="cpu")
    write_sweep(root, **keys | change)
    with pytest.raises(UsageError, match=r"small.json: a record of other settings"):
        work(load_sweep("small", root), device="cpu")
    shutil.rmtree(root / "results")
    with pytest.raises(UsageError, match=r"journal.log: a journal of other settings"):
        work(load_sweep("small", root), device="cpu")


def test_a_row_that_has_changed_is_refused(root: Path) -> None:
    file = root / "experiments" / "tiny" / "maf.yaml"
    file.write_text(file.read_text().replace("chunk: 3", "chunk: 4"))
    with pytest.raises(UsageError, match="has changed since"):
        work(load_sweep("small", root), device="cpu")


def test_a_journal_that_is_none_is_refused(tmp_path: Path) -> None:
    sweep = load_sweep("small", write_sweep(tmp_path))
    sweep.folder.mkdir(parents=True)
    (sweep.folder / "journal.log").write_text('{"op_code":0,"work\n{"op_code":1}\n')
    with pytest.raises(UsageError, match=r"journal.log: expected a journal of Optuna"):
        Study(sweep)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda v: v.update(more=1), "missing or unknown sections: more"),
        (lambda v: v["sweep"].update(more=1), r"sweep: missing or unknown \['more'\]"),
        (lambda v: v["trials"][2].update(more=1), r"trials\[2\]: missing or unknown \['more'\]"),
        (lambda v: v["trials"][2].pop("reason"), r"trials\[2\]: missing or unknown \['reason'\]"),
        (lambda v: v["provenance"].pop("git"), "provenance: missing or unknown"),
        (lambda v: v["record"].update(more=1), "record: missing or unknown sections"),
        (lambda v: v["record"]["metrics"].pop("test/n"), "metrics.test/n: missing"),
        (lambda v: v["trials"].pop(), "trials: expected 4, got 3"),
        (lambda v: v["trials"].reverse(), r"trials\[0\].number: got 3"),
        (lambda v: v.update(winner=(v["winner"] + 1) % 4), "winner: expected"),
        (lambda v: v["sweep"].update(seed=5), "record: expected one of"),
        (lambda v: v["trials"][2].update(seconds=0.0), "sha256: its content was changed"),
        (lambda v: v["sweep"].update(name="other"), "its content is of the sweep other"),
        (lambda v: v["trials"][v["winner"]].update(overrides=[]), "its overrides are not"),
        (lambda v: v["trials"][v["winner"]].update(value=None), "value: got None of done"),
        (lambda v: v["trials"][v["winner"]].update(value=float("nan")), "NaN is not a number"),
    ],
)
def test_a_record_that_was_tampered_with_is_refused(
    root: Path, spoil: Callable[[dict[str, Any]], object], words: str
) -> None:
    path = root / "results/sweeps/small.json"
    values = json.loads(path.read_text())
    spoil(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError, match=rf"small.json: .*{words}"):
        result.read(path)


def test_a_record_comes_back_as_it_was_and_is_never_overwritten(
    found: Result, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="a record stands here"):
        result.write(found, tmp_path)
    assert result.read(result.write(found, tmp_path / "again")) == found
    assert found.sweep == json.loads(json.dumps(load_sweep("small", tmp_path).identity()))
    assert found.provenance["command"] == "nfbench sweep small"
    assert found.provenance["started"] <= found.provenance["finished"]
    assert set(found.provenance["versions"]) >= {"optuna", "torch"}


def test_a_page_shows_trials_and_the_winner_beside_the_row(found: Result, root: Path) -> None:
    page = markdown(found, root)
    assert page == (root / "results/sweeps/small.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    best = [trial for trial in found.trials if trial["state"] == DONE]
    best.sort(key=lambda trial: -trial["value"])
    at = next(i for i, row in enumerate(cells) if row[0] == "trial") + 2
    assert [row[0] for row in cells[at : at + 2]] == [str(trial["number"]) for trial in best]
    assert [row[3] for row in cells[at : at + 2]] == [f"{trial['value']:.4f}" for trial in best]
    assert "The best 2 of 4 trials; 2 failed:" in page
    test = f"{found.run.metrics['test/log_likelihood']:.2f}"
    assert cells[-2][:1] + cells[-2][2:3] == [f"winner, trial {found.winner}", test]
    assert cells[-1][:2] == ["`tiny/maf`", "no record"]
    own = run(load("tiny/maf", "pinwheel", root=root), root=root, device="cpu")
    with pytest.raises(UsageError, match=r"-\| `tiny/maf` .*no record"):
        check("small", root)
    render("small", root)
    check("small", root)
    last = (root / "results/sweeps/small.md").read_text().rpartition("`tiny/maf`")[2]
    assert f"{own.metrics['test/log_likelihood']:.2f}" in last
    assert (root / "results/sweeps/small.png").read_bytes().startswith(b"\x89PNG")


def test_all_tables_come_with_the_pages_of_sweeps(root: Path) -> None:
    call = CliRunner().invoke
    assert call(main, ["table", "--all"]).exit_code == 0
    checked = call(main, ["table", "--all", "--check"])
    assert "sweeps/small: the committed page is what the records give" in checked.output
    assert checked.exit_code == 0
    page = root / "results/sweeps/small.md"
    page.write_text(page.read_text().replace("Tiny", "Tidy"))
    refused = call(main, ["table", "--all", "--check"])
    assert refused.exit_code == 2
    assert "run `nfbench sweep small`" in refused.output


def test_a_check_tells_all_that_is_wrong_of_tables_sweeps_and_costs(root: Path) -> None:
    call = CliRunner().invoke
    shutil.copytree(root / "experiments/tiny", root / "experiments/whole")
    assert call(main, ["table", "--all"]).exit_code == 0
    results = root / "results"
    for page in (results / "tiny.md", results / "sweeps/small.md"):
        page.write_text(page.read_text().replace("Tiny", "Tidy"))
    (results / "sweeps/early.json").write_text("{half a rec")
    (results / "costs.md").write_text("typed by hand")
    (results / "stray").mkdir()
    (results / "stray/0.json").write_text("{}")
    refused = call(main, ["table", "--all", "--check"])
    assert refused.exit_code == 2
    assert "whole: the committed table is what the records give" in refused.output
    for told in (
        "results/stray/0.json: it is the record of no table",
        "results/tiny.md is not what the records give",
        "sweeps/early.json: expected the JSON of a whole record",
        "results/sweeps/small.md is not what the records give",
        "results/costs.md is not what the records give",
    ):
        assert refused.output.count(told) == 1, told


def test_a_damaged_record_is_told_once_and_costs_no_other_page(root: Path) -> None:
    call = CliRunner().invoke
    shutil.copytree(root / "experiments/tiny", root / "experiments/whole")
    assert call(main, ["table", "--all"]).exit_code == 0
    results = root / "results"
    (results / "tiny/maf/pinwheel").mkdir(parents=True, exist_ok=True)
    (results / "tiny/maf/pinwheel/0.json").write_text("{half a rec")
    (results / "whole.md").unlink()
    told = "results/tiny/maf/pinwheel/0.json: expected the JSON of a whole record"
    rendered = call(main, ["table", "--all"])
    checked = call(main, ["table", "--all", "--check"])
    assert rendered.exit_code == checked.exit_code == 2
    assert rendered.output.count(told) == checked.output.count(told) == 1
    assert (results / "whole.md").exists()


def test_a_finished_sweep_is_shown_and_a_dry_run_runs_nothing(root: Path) -> None:
    call = CliRunner().invoke
    shown = call(main, ["sweep", "small", "--jobs", "1"])
    assert shown.exit_code == 0
    assert "page: results/sweeps/small.md" in shown.output
    assert "nothing is left to run" in call(main, ["sweep", "small", "--dry-run"]).output
    write_sweep(root, fixed=FAST)
    shutil.rmtree(root / "results")
    shutil.rmtree(root / "runs")
    planned = call(main, ["sweep", "small", "--dry-run", "--jobs", "2", "--device", "cpu"])
    assert planned.exit_code == 0
    assert "4 trials by grid, 2 at a time" in " ".join(planned.output.split())
    assert "0 trials done, 4 to go" in planned.output
    assert not (root / "runs").exists()


def test_a_sweep_of_a_row_without_steps_is_by_its_fit(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    row = changed(GAUSSIAN, data={"batch_size": 20})
    space = {"training.eval_batch_size": [100, 1000]}
    file = tmp_path / "experiments" / "sweeps" / "small.yaml"
    write_table(tmp_path, gaussian=row)
    file.write_text(
        json.dumps(
            {
                "title": "Fitted",
                "row": "tiny/gaussian",
                "cell": "pinwheel",
                "sampler": "grid",
                "space": space,
            }
        )
    )
    assert work(load_sweep("small", tmp_path), device="cpu")
    found = result.read(tmp_path / "results/sweeps/small.json")
    assert found.run.metrics["val/log_likelihood"] == found.trials[found.winner]["value"]
