"""Two rows on the same points: the paired difference, by formulas of its own; what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness import GAUSSIAN, MAF, command, write_table

from nfbench import record
from nfbench.comparison import Comparison, compare, lines
from nfbench.config import load
from nfbench.errors import UsageError
from nfbench.record import Record
from nfbench.run import run
from nfbench.seal import config_hash


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The record of a real run."""
    root = write_table(tmp_path_factory.mktemp("template"), gaussian=GAUSSIAN)
    return run(load("tiny/gaussian", "pinwheel", root=root), root=root, device="cpu")


def keep(root: Path, template: Record, row: str, seed: int, values: np.ndarray) -> Record:
    """A record and the log-likelihoods of a run, as runs leave them."""
    kept = replace(
        template,
        experiment=template.experiment | {"row": row, "seed": seed},
        metrics=template.metrics
        | {"test/log_likelihood": float(values.mean()), "test/n": len(values)},
    )
    record.write(kept, root)
    path = record.run_dir(kept, root) / "test_log_prob.npz"
    np.savez_compressed(path, log_prob=values.astype(np.float32))
    return kept


@pytest.fixture
def pair(tmp_path: Path, template: Record) -> Comparison:
    """Two seeds of a row against three of another that is 0.1 nats worse at each point."""
    draws = np.random.default_rng(0)
    hard = draws.normal(0, 3, 1000)
    for seed in range(2):
        keep(tmp_path, template, "a", seed, hard + draws.normal(0, 0.2, 1000) + 0.02 * seed)
    for seed in range(3):
        noise = draws.normal(-0.1, 0.2, 1000)
        keep(tmp_path, template, "b", seed, hard + noise - 0.05 * seed)
    return compare("tiny/a/pinwheel", "tiny/b/pinwheel", tmp_path)


def test_the_difference_is_paired_by_point_and_its_errors_stay_apart(
    pair: Comparison, tmp_path: Path
) -> None:
    runs = tmp_path / "runs" / "tiny"
    a, b = (
        [np.load(p)["log_prob"].astype(float) for p in sorted(runs.glob(f"{row}/*/*/*.npz"))]
        for row in "ab"
    )
    assert (len(a), len(b)) == (2, 3)
    d = [(x[0] + x[1]) / 2 - (y[0] + y[1] + y[2]) / 3 for x, y in zip(zip(*a), zip(*b))]  # noqa: B905
    mean = math.fsum(d) / 1000
    variance = math.fsum((x - mean) ** 2 for x in d) / 999
    assert pair.difference == pytest.approx(mean)
    assert pair.se == pytest.approx(math.sqrt(variance / 1000))
    assert pair.interval == pytest.approx(
        [mean - 1.9623 * pair.se, mean + 1.9623 * pair.se], rel=1e-3
    )
    assert pair.wins == sum(x > 0 for x in d) / 1000
    assert pair.unpaired_se > 10 * pair.se  # what pairing is for
    (a0, a1), (b0, b1, b2) = ([float(x.mean()) for x in each] for each in (a, b))
    middle = (b0 + b1 + b2) / 3
    of_b = sum((x - middle) ** 2 for x in (b0, b1, b2)) / 2
    assert pair.seeds_se == pytest.approx(math.sqrt((a0 - a1) ** 2 / 2 / 2 + of_b / 3))


def test_a_single_seed_has_no_spread_over_seeds(pair: Comparison, tmp_path: Path) -> None:
    found = compare("tiny/a/pinwheel/1", "runs/tiny/b/pinwheel/2", tmp_path)
    assert found.seeds_se is None
    assert (len(found.first.records), len(found.second.records)) == (1, 1)
    assert "seed 1" in lines(found)[0]
    assert lines(found)[-1].startswith("over training runs: not known")


def test_runs_on_other_data_are_not_compared(tmp_path: Path, template: Record) -> None:
    values = np.zeros(10)
    keep(tmp_path, template, "a", 0, values)
    other = replace(template, data=template.data | {"fingerprint": "e" * 64})
    keep(tmp_path, other, "b", 0, values)
    with pytest.raises(UsageError, match=r"expected runs on the same data.*fingerprint"):
        compare("tiny/a/pinwheel", "tiny/b/pinwheel", tmp_path)


def test_log_likelihoods_that_are_gone_or_of_another_run_are_told(
    tmp_path: Path, template: Record
) -> None:
    kept = keep(tmp_path, template, "a", 0, np.zeros(10))
    keep(tmp_path, template, "b", 0, np.ones(10))
    path = record.run_dir(kept, tmp_path) / "test_log_prob.npz"
    np.savez_compressed(path, log_prob=np.ones(10, np.float32))
    with pytest.raises(UsageError, match=r"10 log-likelihoods of mean 0, as its record has, got"):
        compare("tiny/a/pinwheel", "tiny/b/pinwheel", tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="expected log-likelihoods, got"):
        compare("tiny/a/pinwheel", "tiny/b/pinwheel", tmp_path)
    path.unlink()
    with pytest.raises(UsageError, match=r"no such file; it stays where the run was; .* move"):
        compare("tiny/a/pinwheel", "tiny/b/pinwheel", tmp_path)


def test_runs_of_other_settings_are_not_averaged(tmp_path: Path, template: Record) -> None:
    config = template.experiment["config"]
    config = config | {"training": config["training"] | {"max_steps": 7}}
    stale = template.experiment | {"config": config, "config_hash": config_hash(config)}
    keep(tmp_path, template, "a", 0, np.zeros(10))
    keep(tmp_path, replace(template, experiment=stale), "a", 1, np.zeros(10))
    with pytest.raises(UsageError, match="expected runs of the same settings, got several"):
        compare("tiny/a/pinwheel", "tiny/a/pinwheel/0", tmp_path)
    assert compare("tiny/a/pinwheel/0", "tiny/a/pinwheel/1", tmp_path).difference == 0


def test_a_setting_that_is_newer_than_a_record_has_its_default_there(
    tmp_path: Path, template: Record
) -> None:
    config = dict(template.experiment["config"])
    del config["vae"], config["preprocess"]
    config["training"] = {k: v for k, v in config["training"].items() if k != "importance_draws"}
    older = template.experiment | {"config": config, "config_hash": config_hash(config)}
    keep(tmp_path, replace(template, experiment=older), "a", 0, np.arange(10.0))
    keep(tmp_path, template, "a", 1, np.arange(10.0)[::-1] + 1)
    found = compare("tiny/a/pinwheel", "tiny/a/pinwheel/0", tmp_path)
    assert (len(found.first.records), found.difference) == (2, 0.5)


def test_settings_that_are_gone_are_compared_as_they_were_kept(
    tmp_path: Path, template: Record
) -> None:
    config = template.experiment["config"]
    for seed, momentum in enumerate((0.9, 0.9, 0.8)):
        gone = config | {"training": config["training"] | {"momentum": momentum}}
        kept = template.experiment | {"config": gone, "config_hash": config_hash(gone)}
        keep(tmp_path, replace(template, experiment=kept), "a", seed, np.zeros(10))
    with pytest.raises(UsageError, match="expected runs of the same settings, got several"):
        compare("tiny/a/pinwheel", "tiny/a/pinwheel/0", tmp_path)
    (tmp_path / "results/tiny/a/pinwheel/2.json").unlink()
    assert len(compare("tiny/a/pinwheel", "tiny/a/pinwheel/0", tmp_path).first.records) == 2


@pytest.mark.parametrize(
    ("target", "message"),
    [("tiny", "expected TABLE/ROW/CELL"), ("tiny/c/pinwheel", "expected finished runs in")],
)
def test_targets_that_are_none_are_told(tmp_path: Path, target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare(target, target, tmp_path)


def test_the_command_compares_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_table(tmp_path, gaussian=GAUSSIAN, maf=MAF)
    for row in ("gaussian", "maf"):
        run(load(f"tiny/{row}", "pinwheel", root=root), root=root, device="cpu")
    output = tmp_path / "out.txt"
    monkeypatch.setenv("NFBENCH_ROOT", str(root))
    with pytest.raises(SystemExit) as ended:
        command(root, ["compare", "tiny/maf/pinwheel", "tiny/gaussian/pinwheel"], output)
    assert ended.value.code == 0
    text = output.read_text()
    found = compare("tiny/maf/pinwheel", "tiny/gaussian/pinwheel", root)
    assert f"difference: {found.difference:+.4f} nats, standard error {found.se:.4f}" in text
    assert "over 10000 test points" in text
