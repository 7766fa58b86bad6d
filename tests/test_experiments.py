"""Every experiment file loads, and says where its numbers are from."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

import nfbench
from nfbench import tables
from nfbench.catalog import load_table, table_names
from nfbench.cli_table import check_tables
from nfbench.config import load, resolve
from nfbench.flows import VECTOR_FLOWS

ROOT = Path(nfbench.__file__).parents[1]
FILES = sorted(
    p
    for p in (ROOT / "experiments").rglob("*")
    if p.is_file() and p.parent.name != "sweeps"  # tests/test_sweeps.py has those
)
ROWS = [p for p in FILES if p.name != "table.yaml"]
UNCONFIRMED = "the paper's number is not confirmed, and not shown"


def test_there_are_experiments_and_nothing_else_beside_them() -> None:
    assert len(ROWS) > 0
    assert {p.suffix for p in FILES} == {".yaml"}
    assert {p.relative_to(ROOT / "experiments").parts[:-1] for p in FILES} == {
        (name,) for name in table_names(ROOT)
    }


@pytest.mark.parametrize("path", ROWS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_row_is_listed_and_each_of_its_cells_loads(path: Path) -> None:
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", path.stem)
    table = load_table(path.parent.name, ROOT)
    cells = table.cells(path.stem)
    assert path.stem in table.rows and cells
    for cell in cells:
        experiment = resolve(table, path.stem, cell)
        assert experiment.title
        if table.paper.title and UNCONFIRMED not in experiment.deviations:
            assert experiment.reported is not None and experiment.reported.source


def test_every_flow_of_vectors_is_tried_on_the_densities_of_the_plane() -> None:
    """But for the one that learns nothing, and the one with a table of its own."""
    table = load_table("toy2d", ROOT)
    tried: dict[str, set[str]] = {}
    for row in table.rows:
        for cell in table.cells(row):
            flow = resolve(table, row, cell).flow["name"]
            tried.setdefault(flow, set()).add(cell)
    assert set(tried) == set(VECTOR_FLOWS) - {"identity", "ffjord"}
    for flow, cells in tried.items():
        assert cells == set(table.columns), flow


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_file_opens_with_what_it_is(path: Path) -> None:
    text = path.read_text()
    header = text[: text.index("\n\n")]
    assert all(line.startswith("#") for line in header.splitlines())
    if path in ROWS:
        for word in (
            "Deviations: ",
            "Cost: ",
            f"Command: nfbench run {path.parent.name}/{path.stem} ",
        ):
            assert f"# {word}" in header


def test_titles_tell_the_rows_of_a_table_apart() -> None:
    for name in table_names(ROOT):
        table = load_table(name, ROOT)
        titles = [table.row(row).values["title"] for row in table.rows]
        assert len(set(titles)) == len(titles)


def test_what_is_committed_is_what_the_records_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables, figures, and the pages of sweeps and of costs."""
    monkeypatch.setenv("NFBENCH_ROOT", str(ROOT))
    check_tables([])


def test_rows_of_the_maf_paper_hold_its_table() -> None:
    """Papamakarios, Pavlakou, Murray (2017), Table 1: one row and one column of it."""
    maf = [
        load("maf2017_table1/maf_5", cell, root=ROOT).reported
        for cell in load_table("maf2017_table1", ROOT).columns
    ]
    assert [r and r.value for r in maf] == [0.14, 9.07, -17.70, -11.75, 155.69, 155.69]
    rows = load_table("maf2017_table1", ROOT).rows[:8]
    power = [load(f"maf2017_table1/{row}", "power", root=ROOT).reported for row in rows]
    assert [r and r.value for r in power] == [-7.74, -3.08, 0.40, -0.02, 0.17, 0.14, 0.24, 0.30]


def test_redrawn_patches_stand_beside_the_published_ones_and_say_so() -> None:
    for row in load_table("maf2017_table1", ROOT).rows[:8]:
        given, redrawn = (
            load(f"maf2017_table1/{row}", cell, root=ROOT)
            for cell in ("bsds300", "bsds300_redrawn")
        )
        assert redrawn.reported == given.reported
        assert (redrawn.flow, redrawn.training) == (given.flow, given.training)
        assert redrawn.data == replace(given.data, name="bsds300_redrawn")
        (deviation,) = set(redrawn.deviations) - set(given.deviations)
        assert "patches drawn anew" in deviation


NSF = {
    "glow": [0.42, 12.24, -16.99, -10.55, 156.95],
    "maf": [0.45, 12.35, -17.03, -10.92, 156.95],
    "rq_nsf_c": [0.64, 13.09, -14.75, -9.67, 157.54],
    "rq_nsf_ar": [0.66, 13.09, -14.01, -9.22, 157.31],
}
NSF_UNCERTAINTIES = {
    "glow": [0.01, 0.03, 0.02, 0.45, 0.28],
    "maf": [0.01, 0.02, 0.02, 0.46, 0.28],
    "rq_nsf_c": [0.01, 0.02, 0.03, 0.47, 0.28],
    "rq_nsf_ar": [0.01, 0.02, 0.03, 0.48, 0.28],
}


def reported(table: str, row: str) -> tuple[list[float], list[float | None]]:
    """The published numbers of a row and their uncertainties, column by column."""
    cells = load_table(table, ROOT).cells(row)
    numbers = [load(f"{table}/{row}", cell, root=ROOT).reported for cell in cells]
    return [n.value for n in numbers if n], [n.uncertainty for n in numbers if n]


def test_rows_of_the_nsf_paper_hold_its_table() -> None:
    """Durkan, Bekasov, Murray, Papamakarios (2019), Table 1, without Q-NSF."""
    assert set(NSF) < set(load_table("nsf2019_table1", ROOT).rows)
    for row in NSF:
        assert reported("nsf2019_table1", row) == (NSF[row], NSF_UNCERTAINTIES[row])
    assert reported("nsf2019_table1", "rq_nsf_c_short") == ([0.64], [0.01])


def test_rows_of_the_nsf_paper_are_the_models_of_their_names() -> None:
    kinds = {
        "glow": ("coupling", "affine"),
        "maf": ("autoregressive", "affine"),
        "rq_nsf_c": ("coupling", "rational_quadratic"),
        "rq_nsf_ar": ("autoregressive", "rational_quadratic"),
    }
    for row, kind in kinds.items():
        for cell in load_table("nsf2019_table1", ROOT).cells(row):
            flow = load(f"nsf2019_table1/{row}", cell, root=ROOT).flow
            assert (flow["kind"], flow["elementwise"]) == kind


def test_short_rows_are_the_long_ones_for_less_and_say_so() -> None:
    for long, short, cell in [
        ("nsf2019_table1/rq_nsf_c", "nsf2019_table1/rq_nsf_c_short", "power"),
        ("nice2014_fig3/nice", "nice2014_fig3/nice_short", "mnist"),
    ]:
        one, other = load(long, cell, root=ROOT), load(short, cell, root=ROOT)
        assert one.reduced is None and other.reduced
        assert (one.reported, one.flow, one.data) == (other.reported, other.flow, other.data)
        steps = {"max_steps": None, "max_epochs": None}
        assert replace(one.training, **steps) == replace(other.training, **steps)


def test_rows_of_the_maf_paper_hold_its_table_of_images() -> None:
    """Papamakarios, Pavlakou, Murray (2017), Table 2: MNIST and CIFAR-10, each of the two
    unconditional and class-conditional.
    """
    columns = {
        "gaussian": ([-1366.9, -1344.7, 2367, 2030], [1.4, 1.8, 29, 41]),
        "made": ([-1380.8, -1361.9, 147, 187], [4.8, 1.9, 20, 20]),
        "made_mog": ([-1038.5, -1030.3, -397, -119], [1.8, 1.7, 21, 20]),
        "realnvp_5": ([-1323.2, -1326.3, 2576, 2642], [6.6, 5.8, 27, 26]),
        "realnvp_10": ([-1370.7, -1371.3, 2568, 2475], [10.1, 43.9, 26, 25]),
        "maf_5": ([-1300.5, -1302.9, 2936, 2983], [1.7, 1.7, 27, 26]),
        "maf_10": ([-1313.1, -1316.8, 3049, 3058], [2.0, 1.8, 26, 26]),
        "maf_mog_5": ([-1100.3, -1092.3, 2911, 2936], [1.6, 1.7, 26, 26]),
    }
    for row, expected in columns.items():
        assert reported("maf2017_table2", row) == expected


def test_the_papers_of_images_have_their_numbers() -> None:
    """Dinh et al. (2016), Table 1; Kingma & Dhariwal (2018), Table 2."""
    realnvp, _ = reported("realnvp2016_table1", "realnvp")
    assert realnvp == [3.49, 4.28, 3.98, 2.72, 2.81, 3.08, 3.02]
    glow, _ = reported("glow2018_table2", "glow")
    assert glow == [3.35, 4.09, 3.81, 2.38, 2.46, 2.67]


def test_the_nice_paper_has_its_number() -> None:
    """Dinh, Krueger, Bengio (2014), Figure 3: MNIST, SVHN, CIFAR-10."""
    assert reported("nice2014_fig3", "nice") == ([1980.50, 11496.55, 5371.78], [None] * 3)


def test_the_ffjord_paper_has_its_numbers() -> None:
    """Grathwohl et al. (2019), Table 2, nats with their sign turned, and Table 6."""
    nats = [-0.46, -8.59, 14.92, 10.43, -157.40]
    found = reported("ffjord2019_table2", "ffjord")
    assert found == ([-value for value in nats], [0.01, 0.12, 0.08, 0.04, 0.19])
    assert reported("ffjord2019_table2", "ffjord_multiscale") == ([0.99, 3.40], [None, None])
    assert reported("ffjord2019_table2", "ffjord_short") == ([0.46], [0.01])
    columns = load_table("ffjord2019_table2", ROOT).columns
    directions = {cell: column.direction for cell, column in columns.items()}
    assert [cell for cell in directions if directions[cell] == "lower"] == ["mnist", "cifar10"]


def test_short_ffjord_is_the_long_one_solved_less_closely() -> None:
    long, short = (
        load(f"ffjord2019_table2/{row}", "power", root=ROOT) for row in ("ffjord", "ffjord_short")
    )
    assert long.reduced is None and short.reduced
    solver = {"atol": 0, "rtol": 0, "gradient": ""}
    assert {**long.flow, **solver} == {**short.flow, **solver}


def test_networks_of_the_ffjord_paper_are_so_many_times_as_wide_as_the_data() -> None:
    """Grathwohl et al. (2019), Table 4: activation, hidden layers, width / D, flows, batch."""
    expected = {
        "power": (6, "tanh", 3, 10, 5, 10000),
        "gas": (8, "tanh", 3, 20, 5, 1000),
        "hepmass": (21, "softplus", 2, 10, 10, 10000),
        "miniboone": (43, "softplus", 2, 20, 1, 1000),
        "bsds300": (63, "softplus", 3, 20, 2, 10000),
    }
    for cell, (dims, activation, n_layers, factor, blocks, batch) in expected.items():
        experiment = load("ffjord2019_table2/ffjord", cell, root=ROOT)
        flow = experiment.flow
        assert flow["hidden"] == [factor * dims] * n_layers
        assert (flow["activation"], flow["blocks"]) == (activation, blocks)
        assert experiment.data.batch_size == batch


def test_the_iaf_paper_has_its_numbers() -> None:
    """Kingma et al. (2016), Table 1, VLB; Table 4, bidirectional; the README of the code."""
    rows = load_table("iaf2016_table1", ROOT).rows
    found = [reported("iaf2016_table1", row) for row in rows]
    assert [values for values, _ in found] == [[-84.08], [-82.02], [-81.17], [-80.93], [-80.80]]
    assert [errors for _, errors in found] == [[0.10], [0.08], [0.08], [0.09], [0.07]]
    rows = load_table("iaf2016_cifar10", ROOT).rows
    assert [reported("iaf2016_cifar10", row)[0] for row in rows] == [
        [3.74, 3.60, 3.46],
        [3.67, 3.52, 3.40],
        [3.56, 3.42, 3.28],
        [3.54, 3.39, 3.27],
        [3.53, 3.36, 3.26],
        [3.15],
    ]


def python_blocks() -> list[str]:
    """The programs of the README: numbers from records, then a flow that is trained."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def output(code: str) -> str:
    """What a program prints, run from the root; it must not fail."""
    command, alone = [sys.executable, "-c", code], os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    return ran.stdout


def test_the_flow_of_the_readme_learns() -> None:
    loss, *shape = output(f"{python_blocks()[1]}\nprint(loss.item(), *samples.shape)").split()
    assert 0 < float(loss) < 3
    assert shape == ["1000", "2"]


def test_the_readme_computes_its_numbers_from_the_records() -> None:
    shown_by_records, _ = map(output, python_blocks())
    entries = [e for e in tables.build("maf2017_table1", ROOT).entries if e.n_seeds]
    shown = [e for e in entries if e.experiment.cell == "power"]
    assert len(shown) > 2
    for entry in shown:
        line = rf"^{entry.experiment.row} +seed \d+: (\S+) ± (\S+) nats$"
        found = re.findall(line, shown_by_records, re.MULTILINE)
        assert len(found) == entry.n_seeds
        mean, points = (fmean(float(each[i]) for each in found) for i in (0, 1))
        assert (mean, points) == pytest.approx((entry.ours, entry.points), abs=0.01)
