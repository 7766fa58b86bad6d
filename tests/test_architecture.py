"""Which way imports point, where torch stays out, how long a page is; every cell builds."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

import nfbench
from nfbench import checkpoint
from nfbench.build import build_model, count_classes
from nfbench.catalog import load_table, table_names
from nfbench.config import Experiment, resolve
from nfbench.data import DATA
from nfbench.data.dataset import Dataset
from nfbench.flat import tie_gradients
from nfbench.flows import FLOWS
from nfbench.launch.estimate import random_labels, random_rows
from nfbench.training import build_module, build_schedule

PACKAGE = Path(nfbench.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in FILES}
MAX_FILE, MAX_FUNCTION = 300, 60
BATCH, STEPS = 8, 2
MAX_DIMENSIONS = 1024  # beyond it images have models of gigabytes
COSTLY = {  # two steps take half a minute
    ("ffjord2019_table2", "ffjord", "bsds300"),
    ("ffjord2019_table2", "ffjord_multiscale", "mnist"),
    ("ffjord2019_table3", "ffjord", "mnist_binarized"),
    ("ffjord2019_table3", "ffjord", "omniglot"),
}

# Who may import whom; a name covers a module or a folder. Each imports only from above itself,
# so that imports point one way.
TORCH_FREE = {
    "": "",
    "errors": "",
    "console": "",
    "exits": "",
    "seeds": "",
    "units": "",
    "atomic": "",
    "signals": "",
    "logs": "",
    "world": "",
    "signatures": "",
    "kinds": "",
    "selection": "",
    "schedule": "errors",
    "settings": "errors kinds",
    "sections": "",
    "seal": "errors",
    "record": "atomic errors seal",
    "parts": "record",
    "curve": "",
    "catalog": "errors record settings",
    "data": "atomic errors",
    "config": "catalog data errors kinds record seal sections settings signatures",
    "summary": "record",
    "conditions": "record",
    "outliers": "record",
    "soundness": "record",
    "verdict": "catalog conditions config errors record settings outliers soundness",
    "wording": "catalog outliers soundness verdict",
    "archive": "catalog data errors record",
    "tables": "archive catalog conditions config data record soundness verdict wording",
    "rendering": "archive errors record tables",
    "costs": "errors record seal sections signatures",
    "cost_page": "archive catalog config costs parts record rendering tables units",
    "comparison": "config errors record",
    "figures": "atomic",
    "portrait": "curve figures record",
    "report": "archive catalog curve errors figures parts record tables verdict wording",
    "imaging": "atomic figures",
    "stamp": "archive seal tables",
    "plots": "catalog config errors figures portrait record stamp",
    "tradeoff": "catalog conditions config errors figures record stamp tables verdict",
    "gaps": "catalog errors figures record stamp tables verdict wording",
    "tracking": "",
    "tracking.identity": "config record",
    "tracking.mode": "errors",
    "tracking.log_file": "errors",
    "tracking.merge": "tracking.log_file",
    "tracking.sync": "console errors record tracking.log_file tracking.merge tracking.mode",
    "leaderboard": "catalog conditions errors parts record tables verdict wording",
    "tracking.report": "leaderboard tables",
    "tracking.push": "console errors leaderboard record tables tracking.identity"
    " tracking.mode tracking.report",
    "launch.plan": "catalog config errors record settings",
    "sweeps": "",
    "sweeps.space": "config errors record settings",
    "sweeps.result": "errors record seal sweeps.space",
    "sweeps.figure": "figures sweeps.result",
    "sweeps.pages": "catalog record rendering sweeps.figure sweeps.result",
    "sweeps.study": "config errors record seeds signals sweeps.result sweeps.space",
    "launch.local": "launch.plan signals",
    "launch.apart": "errors exits",
    "launch.profile": "errors record settings",
    "launch.commands": "errors",
    "launch.finding": "",
    "launch.limits": "launch.commands launch.finding launch.profile settings",
    "launch.checkup": "data",
    "launch.examination": "launch.checkup launch.commands launch.finding launch.profile record",
    "launch.manifest": "errors",
    "launch.queue": "launch.commands launch.manifest",
    "launch.script": "launch.manifest launch.profile",
    "launch.submit": "data errors launch.commands launch.manifest launch.profile launch.script"
    " record",
    "launch.slurm": "data errors launch.commands launch.manifest launch.plan launch.profile"
    " launch.queue launch.submit record sweeps.result sweeps.space",
    "launch.standing": "catalog config curve data launch.manifest launch.plan launch.queue"
    " launch.script record",
    "launch.control": "errors launch.commands launch.manifest launch.plan launch.queue"
    " launch.standing record",
    "launch.doctor": "launch.commands launch.examination launch.finding launch.limits"
    " launch.profile",
}
TORCH = {
    "flat": "",
    "processes": "",
    "machine": "errors world",
    "metrics": "",
    "density": "metrics",
    "checkpoint": "atomic errors",
    "nets": "processes",
    "transforms": "errors nets",
    "distributions": "nets",
    "flows": "density distributions kinds nets transforms",
    "vae": "density distributions flows metrics",
    "resnet_vae": "distributions metrics nets vae",
    "objectives": "density flows nets transforms vae",
    "data.augment": "",
    "data.batches": "data.augment errors schedule seeds",
    "data.base": "data data.augment data.batches errors schedule seeds",
    "nfe": "density errors processes transforms",
    "gradient": "density errors flat nets objectives transforms",
    "matmul": "",
    "shard": "processes",
    "module": "density flat gradient matmul metrics nets nfe objectives processes schedule seeds"
    " selection shard",
    "callbacks": "checkpoint config curve errors module nfe parts processes record signals",
    "progress": "module nfe",
    "provenance": "config module parts world",
    "audit": "density distributions flows transforms vae",
    "latent": "audit density flows transforms",
    "pictures": "data.base density flows latent signals",
    "speed": "density signals",
    "flops": "signals",
    "evaluation": "data data.base errors flows metrics module objectives processes vae",
    "teacher": "checkpoint config density errors record",
    "build_vae": "config data distributions flows nets resnet_vae sections vae",
    "build": "build_vae config data data.base density errors flows sections transforms",
    "training": "config data density errors module nets objectives record schedule sections"
    " selection teacher transforms",
    "tracking.logger": "signals tracking.identity tracking.log_file tracking.mode",
    "tracking.session": "config errors exits figures imaging portrait provenance record signals"
    " tracking.identity tracking.log_file tracking.logger tracking.mode",
    "run": "atomic audit build callbacks checkpoint config data.base errors evaluation machine"
    " metrics module pictures processes progress provenance record signals speed tracking.session"
    " training world",
}
LAZY = {  # What computes is imported by these when it is called for, and not before.
    "inspection": "audit build checkpoint config data.base density errors nfe record soundness",
    "throughput": "data.base data.batches flat flops inspection machine module provenance record"
    " run speed training",
    "pages": "density errors flows imaging latent transforms vae",
    "sampling": "atomic density errors flows imaging inspection latent machine pages record run"
    " vae",
    "launch.estimate": "build config costs data flat machine module provenance schedule speed"
    " training units",
    "launch.reproduce": "config console data errors launch.estimate launch.local"
    " launch.plan plots record rendering tables units",
    "launch.costs": "build catalog checkpoint config console costs data errors exits"
    " launch.apart launch.estimate launch.local launch.plan"
    " launch.reproduce machine provenance record seal",
    "launch.measure": "console launch.plan launch.reproduce machine record rendering"
    " run tables throughput tradeoff",
    "launch": "",
    "cli_compare": "comparison",
    "cli_device": "errors",
    "cli_costs": "cli_device cost_page costs errors exits launch.costs record",
    "cli_data": "console data",
    "cli_report": "report",
    "cli_sample": "cli_device pages sampling",
    "cli_speed": "catalog cli_device errors exits launch.measure soundness throughput",
    "sweeps.trial": "config errors machine provenance run signals sweeps.study",
    "sweeps.work": "data errors provenance record run sweeps.pages sweeps.result sweeps.space"
    " sweeps.study sweeps.trial",
    "sweeps.launch": "console data errors launch.estimate launch.local sweeps.pages"
    " sweeps.result sweeps.space sweeps.study units",
    "cli_slurm": "config exits launch.doctor launch.profile launch.slurm record sweeps.space",
    "cli_status": "cli_slurm console errors exits launch.commands launch.control"
    " launch.manifest launch.plan launch.profile launch.queue"
    " launch.reproduce launch.standing record",
    "cli_sweep": "cli_device cli_slurm errors exits launch.reproduce logs signals"
    " summary sweeps.launch sweeps.pages sweeps.result sweeps.space"
    " sweeps.work",
    "cli_wandb": "exits tracking.push tracking.sync",
    "cli_table": "archive catalog cli_costs cli_sweep console errors record rendering stamp"
    " tables",
    "cli_plot": "gaps plots tradeoff",
    "cli": "cli_compare cli_costs cli_data cli_device cli_plot cli_report cli_sample"
    " cli_slurm cli_speed cli_status cli_sweep cli_table cli_wandb config data"
    " errors exits inspection launch.reproduce logs record run signals summary"
    " world",
    "__main__": "cli",
}
ALLOWED = {name: set(text.split()) for name, text in (TORCH_FREE | TORCH | LAZY).items()}


def dotted(path: str) -> str:
    """data/base.py -> data.base."""
    return path.removesuffix(".py").replace("/", ".").removesuffix("__init__").rstrip(".")


MODULES = {dotted(path) for path in TREES}


def wing(module: str) -> str:
    """The name in ALLOWED that covers a module: the longest there is."""
    names = [module, module.partition(".")[0]]
    return next((name for name in names if name in ALLOWED), module)


def imported(path: str, tree: ast.Module) -> Iterator[str]:
    """The package's modules that a file imports, wherever it does, without the package's name."""
    folder = path.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            base = [*(["nfbench", *above] if node.level else []), *(node.module or "").split(".")]
            names = [".".join([*filter(None, base), alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "nfbench":
                yield module_of(rest)


def module_of(name: str) -> str:
    """The module that holds a name: schedule.Schedule -> schedule."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def nodes(kind: type | tuple[type, ...]) -> Iterator[tuple[str, Any]]:
    """Every node of a kind, with the path of its file."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield path, node


def test_imports_point_one_way() -> None:
    for position, (name, others) in enumerate(ALLOWED.items()):
        assert others <= set(list(ALLOWED)[:position]), f"{name} is not below what it imports"


@pytest.mark.parametrize("path", TREES)
def test_a_module_imports_only_what_it_may(path: str) -> None:
    own = wing(dotted(path))
    assert own in ALLOWED, f"{own}: say in this file what it may import"
    found = {wing(module) for module in imported(path, TREES[path])} - {own, ""}
    assert found <= ALLOWED[own]


def test_every_wing_is_there() -> None:
    assert {wing(module) for module in MODULES} == set(ALLOWED)


def test_half_of_the_package_needs_no_torch() -> None:
    free = [f"nfbench.{m}".rstrip(".") for m in sorted(MODULES) if wing(m) in TORCH_FREE]
    free += ["nfbench.cli", "nfbench.launch.reproduce"]
    program = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
        "print(sorted({'torch', 'pytorch_lightning', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(free)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(free) > 15
    assert done.stdout.strip() == "[]"


def test_no_file_is_longer_than_a_few_pages() -> None:
    lengths = {path: len((PACKAGE / path).read_text().splitlines()) for path in TREES}
    assert {path: n for path, n in lengths.items() if n > MAX_FILE} == {}


def test_no_function_is_longer_than_a_page() -> None:
    functions = nodes((ast.FunctionDef, ast.AsyncFunctionDef))
    lengths = {f"{path}:{f.name}": f.end_lineno - f.lineno + 1 for path, f in functions}
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION} == {}


def test_nothing_is_printed_but_through_click_and_rich() -> None:
    calls = [
        f"{path}:{node.lineno}"
        for path, node in nodes(ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def test_no_exception_is_caught_blindly() -> None:
    handlers = nodes(ast.ExceptHandler)
    assert [f"{path}:{node.lineno}" for path, node in handlers if node.type is None] == []


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X"])
def test_nothing_is_left_for_later(word: str) -> None:
    assert [path for path in TREES if word in (PACKAGE / path).read_text()] == []


def used_elsewhere() -> set[tuple[str, str]]:
    """(module, name) for what a file takes from another one of the package."""
    used = set()
    for _, node in nodes((ast.ImportFrom, ast.Attribute)):
        if isinstance(node, ast.Attribute):
            used |= {(node.value.id, node.attr)} if isinstance(node.value, ast.Name) else set()
        else:
            used |= {((node.module or "").rpartition(".")[2], each.name) for each in node.names}
    return used


def test_every_module_and_class_and_what_others_use_of_a_module_has_a_docstring() -> None:
    used = used_elsewhere()
    bare = [path for path, tree in TREES.items() if not ast.get_docstring(tree)]
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) or (
                isinstance(node, ast.FunctionDef) and (Path(path).stem, node.name) in used
            ):
                bare += [] if ast.get_docstring(node) else [f"{path}:{node.name}"]
    assert bare == []


def test_recipes_are_registered_under_their_own_names() -> None:
    assert {name: recipe.__name__ for name, recipe in FLOWS.items()} == {n: n for n in FLOWS}
    assert {name: dataset.name for name, dataset in DATA.items()} == {n: n for n in DATA}


TABLES = {name: load_table(name, ROOT) for name in table_names(ROOT)}
CELLS = [
    (name, row, cell)
    for name, table in TABLES.items()
    for row in table.rows
    for cell in table.cells(row)
]


def test_every_experiment_file_is_among_the_cells() -> None:
    files = {p for p in (ROOT / "experiments").rglob("*.yaml") if p.name != "table.yaml"}
    files -= set((ROOT / "experiments" / "sweeps").iterdir())
    assert len(files) >= 13
    assert {(path.parent.name, path.stem) for path in files} == {cell[:2] for cell in CELLS}


@pytest.mark.parametrize("address", CELLS, ids="/".join)
def test_every_cell_builds_and_trains(address: tuple[str, str, str], tmp_path: Path) -> None:
    """Of what is too large for a test the shapes; tests/test_full_size.py trains CIFAR-10."""
    table, row, cell = address
    experiment = resolve(TABLES[table], row, cell)
    dataset = DATA[experiment.data.name]
    if address in COSTLY or prod(dataset.event_shape) > MAX_DIMENSIONS:
        has_a_likelihood_without_memory(experiment, dataset)
    else:
        takes_two_steps(experiment, dataset, tmp_path)


def has_a_likelihood_without_memory(experiment: Experiment, dataset: Dataset) -> None:
    with torch.device("meta"):
        model = build_model(experiment, dataset).eval()
        build_module(experiment, model, build_schedule(experiment, 100))
        dtype = torch.float32 if dataset.levels is None else torch.uint8
        values = model.log_prob(torch.zeros(2, *dataset.event_shape, dtype=dtype))
    assert values.shape == (2,)


def takes_two_steps(experiment: Experiment, dataset: Dataset, tmp_path: Path) -> None:
    model = build_model(experiment, dataset)
    if experiment.training.teacher is not None:  # whose run need not be here: itself
        path = tmp_path / "best.pt"
        identity, weights = experiment.identity(), model.state_dict()
        checkpoint.save(path, {"experiment": identity, "model": weights})
        experiment = replace(experiment, training=replace(experiment.training, teacher=str(path)))
    module = build_module(experiment, model, build_schedule(experiment, 100))
    torch.manual_seed(0)
    # Where nothing is trained a covariance is fitted, for each class.
    n_fitted = 0 if module.trained else 2 * prod(dataset.event_shape)
    n_rows = BATCH + n_fitted * max(1, count_classes(experiment, dataset))
    rows = random_rows(dataset.event_shape, dataset.levels, n_rows)
    if module.trained:
        before = [parameter.detach().clone() for parameter in module.trained]
        optimizer = module.configure_optimizers()
        tie_gradients(module.weights, module.trained)
        for _ in range(STEPS):  # the first moves only last layers where these start at zero
            labels = random_labels(experiment, dataset, BATCH)
            module.optimize(optimizer, rows[:BATCH], labels)
        assert any(not torch.equal(a, b) for a, b in zip(before, module.trained, strict=True))
    if model.needs_calibration:
        model.calibrate(rows, random_labels(experiment, dataset, len(rows)))
    values = model.eval().log_prob(rows[:BATCH])
    assert values.shape == (BATCH,)
    assert values.isfinite().all()
