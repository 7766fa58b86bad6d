"""Experiments load typed and resolved; a mistake is one line with file, key and nearest name."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nfbench.catalog import load_table, table_names
from nfbench.config import load, same_settings
from nfbench.data import DATA
from nfbench.errors import UsageError
from nfbench.signatures import dataset_names, flow_names, flow_schema

TABLE = """
title: A table
metric: test/log_likelihood
unit: nats
direction: higher
uncertainty: {ours: two standard errors}
columns:
  power: POWER
  digits: {heading: Digits, metric: test/bits_per_dim, unit: bits, direction: lower}
rows: [maf_5]
"""
ROW = """
title: MAF (5)
deviations: [one]
flow: {name: maf, layers: 4}
training: {learning_rate: 1, patience: 30}
cells:
  power:
    flow: {hidden: [8, 8]}
    training: {patience: 3}
    deviations: [two]
    reported: {value: 1, source: Table 1}
  digits:
"""
Edit = Callable[..., Path]


@pytest.fixture
def edit(tmp_path: Path) -> Edit:
    """Writes a small tree, with the row or the table changed as told."""

    def write(row: str = ROW, table: str = TABLE) -> Path:
        folder = tmp_path / "experiments" / "small"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.yaml").write_text(table)
        (folder / "maf_5.yaml").write_text(row)
        return tmp_path

    return write


def message(row: str, cell: str, seed: int = 0, words: Sequence[str] = (), *, root: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load(row, cell, seed, words, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_precedence_is_signature_row_cell_command_line(edit: Edit) -> None:
    root = edit()
    plain = load("small/maf_5", "power", root=root)
    assert plain.flow["activation"] == "relu"  # the signature
    assert plain.flow["layers"] == 4  # the row
    assert plain.training.patience == 3  # the cell, over the row
    told = load("maf_5", "power", overrides=["training.patience=5", "flow.layers=2"], root=root)
    assert (told.training.patience, told.flow["layers"]) == (5, 2)
    assert load("maf_5", "digits", root=root).training.patience == 30


def test_settings_are_plain_values_of_the_declared_types(edit: Edit) -> None:
    experiment = load("maf_5", "power", root=edit())
    assert type(experiment.flow["hidden"]) is list and experiment.flow["hidden"] == [8, 8]
    assert type(experiment.training.learning_rate) is float
    assert experiment.data.name == "power"
    assert experiment.reported is not None and experiment.reported.value == 1.0


def test_deviations_of_a_cell_add_to_those_of_its_row_and_of_its_data(
    edit: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("maf_5", "digits", root=edit()).deviations == ("one",)
    monkeypatch.setitem(
        DATA, "power", dataclasses.replace(DATA["power"], deviations=("one", "three"))
    )
    assert load("maf_5", "power", root=edit()).deviations == ("one", "three", "two")


def test_hash_ignores_order_spelling_and_text_but_no_setting(edit: Edit) -> None:
    before = load("maf_5", "power", root=edit()).hash
    respelled = ROW.replace(
        "learning_rate: 1, patience: 30", "patience: 30, learning_rate: 1.0e+0"
    )
    retold = respelled.replace("MAF (5)", "another").replace("value: 1,", "value: 2,")
    assert load("maf_5", "power", seed=7, root=edit(retold)).hash == before
    assert load("maf_5", "power", overrides=["flow.layers=6"], root=edit()).hash != before
    assert len(before) == 12


def test_overrides_are_kept_as_they_were_understood(edit: Edit) -> None:
    root = edit()
    words = ["training.learning_rate=1e-3", "flow.hidden=[4]", "training.learning_rate=0.001"]
    experiment = load("maf_5", "power", overrides=words, root=root)
    assert experiment.overrides == ("flow.hidden=[4]", "training.learning_rate=0.001")
    assert load("maf_5", "power", overrides=experiment.overrides, root=root) == experiment


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "learning_rate",
            "learning_rat",
            "training.learning_rat: unknown key; did you mean 'learning_rate'?",
        ),
        (
            "patience: 3}",
            "patienc: 3}",
            "cells.power.training.patienc: unknown key; did you mean 'patience'?",
        ),
        ("layers: 4", "layers: five", "flow.layers: expected int, got 'five'"),
        ("layers: 4", "layers: 4.5", "flow.layers: expected int, got 4.5"),
        ("layers: 4", "layers: true", "flow.layers: expected int, got True"),
        ("layers: 4", "layers: [4]", "flow.layers: expected int, got [4]"),
        ("layers: 4", "layers: null", "flow.layers: expected int, got null"),
        ("[8, 8]", "8", "cells.power.flow.hidden: expected list of int, got 8"),
        ("[8, 8]", "[8, wide]", "cells.power.flow.hidden: expected list of int, got [8, 'wide']"),
        (
            "learning_rate: 1",
            "learning_rate: .nan",
            "training.learning_rate: expected float, got nan",
        ),
        (
            "learning_rate: 1",
            "schedule: cosin",
            "training.schedule: expected 'constant' or 'cosine' or 'exponential' or 'plateau'",
        ),
        ("name: maf", "name: mafs", "flow.name: unknown flow 'mafs'; did you mean 'maf'?"),
        ("name: maf, ", "", "flow.name: missing"),
        ("value: 1, ", "", "cells.power.reported.value: missing; expected float"),
        ("flow: {name: maf, layers: 4}", "flow: maf", "flow: expected a mapping, got 'maf'"),
        ("title: MAF (5)", "titel: MAF (5)", "titel: unknown key; did you mean 'title'?"),
        ("title: MAF (5)", "title: a: b", "line 2: mapping values are not allowed"),
        ("title: MAF (5)", "title: a\ntitle: b", "line 3: found duplicate key title"),
        ("title: MAF (5)", "title: ???", "title: nothing is filled in for '???'"),
        (
            "title: MAF (5)",
            "title: ${oc.env:HOME}",
            "title: nothing is filled in for '${oc.env:HOME}'",
        ),
        ("title: MAF (5)", "title: ${", "no viable alternative"),
    ],
)
def test_mistake_in_a_row_names_file_and_key(edit: Edit, old: str, new: str, told: str) -> None:
    assert old in ROW
    text = message("maf_5", "power", root=edit(ROW.replace(old, new)))
    assert text.startswith("experiments/small/maf_5.yaml: ") and told in text


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("flow.layer=3", "command line: flow.layer: unknown key; did you mean 'layers'?"),
        ("flow.layers", "command line: flow.layers: expected section.key=value"),
        ("layers=3", "command line: layers=3: expected section.key=value"),
        ("flwo.layers=3", "command line: flwo: unknown key; did you mean 'flow'?"),
        ("flow.hidden=[1", "command line: flow.hidden: line 2: did not find expected"),
        (
            "data.name=powwer",
            "command line: data.name: unknown data 'powwer'; did you mean 'power'?",
        ),
        ("flow.activation=${oc.env:HOME}", "nothing is filled in for '${oc.env:HOME}'"),
        (
            "training.clip_norm=x",
            "command line: training.clip_norm: expected float or null, got 'x'",
        ),
        (
            "training.max_steps=inf",
            "command line: training.max_steps: expected int or null, got 'inf'",
        ),
    ],
)
def test_mistake_on_the_command_line_names_the_key(edit: Edit, word: str, told: str) -> None:
    assert told in message("maf_5", "power", 0, [word], root=edit())


def test_unknown_names_suggest_the_nearest(edit: Edit) -> None:
    root = edit()
    told = "cells.powr: unknown cell of small/maf_5; did you mean 'power'? (cells: power, digits)"
    assert message("maf_5", "powr", root=root).endswith(told)
    assert "did you mean 'maf_5'?" in message("maf_6", "power", root=root)
    assert "did you mean 'maf_5'?" in message("small/maf_6", "power", root=root)
    assert "did you mean 'small'?" in message("smal/maf_5", "power", root=root)
    assert "seed: expected a non-negative integer" in message("maf_5", "power", -1, root=root)


def test_columns_inherit_from_the_table_and_may_differ(edit: Edit) -> None:
    table = load_table("small", edit())
    assert table.cells("maf_5") == ("power", "digits")
    assert table.columns["power"].metric == "test/log_likelihood"
    assert dataclasses.astuple(table.columns["digits"])[:3] == (
        "Digits",
        "test/bits_per_dim",
        "bits",
    )
    assert table_names(table.root) == ("small",)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rows: [maf_5]", "rows: [maf_5, maf_6]", "there is no maf_6.yaml; did you mean 'maf_5'?"),
        ("rows: [maf_5]", "rows: []", "maf_5.yaml is not listed"),
        ("rows: [maf_5]", "rows: [maf_5, maf_5]", "expected once"),
        ("unit: nats\n", "", "unit: missing; expected str"),
        (
            "direction: higher",
            "direction: up",
            "direction: expected 'higher' or 'lower', got 'up'",
        ),
        ("power: POWER", "../x: POWER", "expected lower case letters"),
        ("power: POWER", "powers: POWER", "cells.power: unknown key; did you mean 'powers'?"),
    ],
)
def test_mistake_in_a_table_is_told(edit: Edit, old: str, new: str, told: str) -> None:
    assert old in TABLE
    assert told in message("maf_5", "power", root=edit(table=TABLE.replace(old, new)))


def test_row_in_two_tables_must_be_named_in_full(edit: Edit) -> None:
    root = edit()
    other = root / "experiments" / "other"
    other.mkdir()
    for file in (root / "experiments" / "small").iterdir():
        (other / file.name).write_text(file.read_text())
    assert message("maf_5", "power", root=root).endswith("name one of other/maf_5, small/maf_5")
    assert load("other/maf_5", "power", root=root).table == "other"


RECIPE = """
def deep(event_shape, *, context_features: int = 0, layers: int, hidden: Sequence[int] = (1, 2),
         bound: float | None = None, scale: Literal["exp", "tanh"] = "exp"):
    raise RuntimeError("signatures are read, not run")
"""


def test_signatures_are_read_without_running_the_code(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text(
        'from .deep import deep\nFLOWS: dict = {"deep": deep}\nraise SystemExit'
    )
    (tmp_path / "deep.py").write_text(RECIPE)
    assert flow_names(tmp_path) == ("deep",)
    schema = flow_schema("deep", tmp_path)
    names = [field.name for field in dataclasses.fields(schema)]
    assert names == ["name", "layers", "hidden", "bound", "scale"]
    assert schema(layers=3).hidden == [1, 2]


@pytest.mark.parametrize(
    ("old", "new"), [("layers: int", "layers"), ("(1, 2)", "WIDE"), ("float | None", "Bound")]
)
def test_signature_that_cannot_be_read_is_told(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "__init__.py").write_text('from .deep import deep\nFLOWS = {"deep": deep}\n')
    (tmp_path / "deep.py").write_text(RECIPE.replace(old, new))
    with pytest.raises(ValueError, match="expected a plain type and a literal default"):
        flow_schema("deep", tmp_path)


def test_registries_are_read_as_they_are() -> None:
    assert {"gaussian", "made", "maf", "realnvp"} <= set(flow_names())
    assert {"power", "gas", "hepmass", "miniboone", "bsds300"} <= set(dataset_names())
    for name in flow_names():
        assert flow_schema(name)().name == name


def test_loading_and_tables_import_no_torch() -> None:
    code = "import sys, nfbench.tables, nfbench.config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("overrides", "same"), [([], True), (["flow.scale_bound=2"], False), (["data.seed=1"], False)]
)
def test_a_setting_newer_than_a_record_had_its_default(
    edit: Edit, overrides: list[str], same: bool
) -> None:
    """So a row that gives it another value since is not what the record was made with."""
    root = edit()
    then = load("small/maf_5", "power", root=root).identity()
    for section, key in (("flow", "scale_bound"), ("data", "seed")):
        then["config"][section] = {k: v for k, v in then["config"][section].items() if k != key}
    now = load("small/maf_5", "power", overrides=overrides, root=root).identity()
    assert same_settings(then, now["config"]) is same


def test_a_setting_that_is_gone_makes_a_difference(edit: Edit) -> None:
    identity = load("small/maf_5", "power", root=edit()).identity()
    gone = {**identity["config"], "training": {**identity["config"]["training"], "momentum": 0.9}}
    assert not same_settings({**identity, "config": gone}, identity["config"])
