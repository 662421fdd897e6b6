"""Every benchmark ends with its tables at a tiny size, so that a change of the library cannot break one unseen."""

import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import forks
import pytest
import torch
from hub_cache import write
from project import ROOT
from sparseft.axes.tasks import BY_NAME
from sparseft.common.command import parse
from sparseft.training.lora import effective_weight
from sparseft.training.settings import Training
from tiny_models import save_tiny

FOLDER = ROOT / "benchmarks"
# On a CPU, these only print their tables.
OF_GPUS = ("lora_gpu", "lora_model_gpu")
# The processes of a benchmark are forks, so that they have its tiny size too.
FORKS = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
# Benchmark -> what is smaller in it, or a function of its module that gives this. Programs that a benchmark starts have
# their own sizes, which take little time with a tiny model.
TINY = {
    "compact": {"PERCENTS": (50,), "REPEATS": 1, "TOKENS": 32, "NEW": 2},
    "engines": {"STRUCTURED": (50,), "LAYERS": (), "EXPERTS": 45}
    | {"MIXTRAL": lambda module: module.MIXTRAL | {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}},
    "distillation": {
        "PRUNINGS": (("layers_block_influence_on_task", 50),),
        "SIZES": (24, 8),
        "CALIBRATION": 4,
        "REPEATS": 1,
    }
    | {"SETTINGS": Training(steps=4), "multiprocessing": FORKS},
    "intervals": {"EXAMPLES": (20,), "DEVIATIONS": (0.01,), "POWER_EXAMPLES": (20,), "LEVELS": (0.7,)},
    "importance": {"METHODS": ["unstructured_wanda"], "PERCENTS": [50], "CONTEXT": 32, "WINDOWS": 2}
    | {"SIZES": {"hellaswag_mini": (128, 4), "hellaswag": (128, 4)}},
    "lora": {"SHAPES": ((64, 48),), "TOKENS": (32,), "REPEATS": 1},
    "lora_gpu": {},
    "lora_model_gpu": {"measured_apart": lambda module: measured_here(module)},
    "lora_model": {
        "REPEATS": 1,
        "DTYPES": lambda module: {"bf16": module.torch.bfloat16},
        "CASES": lambda module: (module.PEFT, module.MASKED[0]),
    },
    "masks": {"SIDE": 64, "HIDDEN": 64, "CHANNELS": 96, "BLOCKS": (1,), "THREADS": (1,), "REPEATS": 1},
    "measures": {"ROWS": (24,), "WINDOWS": (16,)},
    "modes": {
        "PERCENTS": (50,),
        "SETTINGS": {"hellaswag_mini": Training(steps=2)},
        "SIZES": {"hellaswag_mini": (24, 8)},
        "multiprocessing": FORKS,
    },
    "peers": {"EXAMPLES": 2, "LENGTH": 32, "WINDOWS": 2},
    "planning": {"TURNS": 1, "PRINTED": {"the table": ([], [])}}
    | {"PLANS": lambda module: {"one mask": module.PLANS["one mask"]}},
    "sharded_memory": {
        "LAYERS": 2,
        "SIZES": lambda module: module.SIZES | {"hidden_size": 64, "intermediate_size": 96},
        "PROCESSES": (2,),
        "CASES": {"a divided model": True},
    },
    "structured": {
        "LENGTH": 16,
        "MEASURED": 2,
        "CASES": lambda module: (
            module.Case("structured_obs", 30, "both", windows=4),
            module.Case("structured_wanda", 30, module.SELF, windows=2),
            module.Case("layers_random", 50, "WikiText-2", windows=2),
        ),
    },
}
# Their arguments. `{0}` is a folder with a model and with rows of HellaSwag.
ARGUMENTS = {
    "compact": ["{0}/model"],
    "engines": "{0}/model --repeats 1 --prompts 2 --prompt_tokens 8 --new_tokens 4 --load 2".split(),
    "distillation": ["{0}/model", "--hellaswag", "{0}", "--work", "{0}_work", "--seeds", "1"],
    "intervals": ["--repeats", "20"],
    "importance": ["{0}/model", "--hellaswag", "{0}", "--wikitext", "{0}"],
    "lora_gpu": "--device cpu --shapes 64x48 --tokens 32 --repeats 1".split(),
    "lora_model": ["{0}/model"],
    "lora_model_gpu": "--device cpu --layers 1 --size tiny --tokens 16 --turns 1".split(),
    "measures": ["--repeats", "5"],
    "modes": ["{0}/model", "--hellaswag", "{0}", "--seeds", "1"],
    # Without the authors' repositories, only this project runs.
    "peers": ["{0}/model", "--wikitext", "{0}"],
    "structured": ["{0}/model", "--hellaswag", "{0}", "--wikitext", "{0}", "--work", "{0}_work"],
}


def measured_here(module: ModuleType) -> Callable[[str], dict]:
    """Return a function that measures the first case in a process of its own, and every other case in this one."""
    apart, device = module.measured_apart, torch.device("cpu")
    return lambda case: apart(case) if case == module.PEFT else module.measure(case, "tiny", 1, 16, device)


def test_every_benchmark_has_a_tiny_size():
    assert TINY.keys() == {path.stem for path in FOLDER.glob("*.py")} - {"bench"}


def tiny(name: str, folder: Path) -> ModuleType:
    """Return the module of a benchmark, with its tiny size. Its results go into another folder."""
    # tests/ has a module `masks` too.
    sys.modules.pop("masks", None)
    sys.path.insert(0, str(FOLDER))
    bench = import_module("bench")
    bench.RESULTS = folder / "results"
    bench.TURN = 1
    module = import_module(name)
    assert vars(module).keys() >= TINY[name].keys()
    vars(module).update({key: value(module) if callable(value) else value for key, value in TINY[name].items()})
    return module


def run(name: str, folder: Path) -> None:
    module = tiny(name, folder)
    sys.argv = [str(FOLDER / f"{name}.py"), *(word.format(folder) for word in ARGUMENTS.get(name, []))]
    parse(module.main, sys.argv[1:])()


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_writes_its_tables(tmp_path, name):
    save_tiny("llama", tmp_path / "model")
    for split, number in (("train", 128), ("validation", 8)):
        rows = BY_NAME["hellaswag_mini"].generate(split, number, 0)
        write(tmp_path / f"{split}.jsonl", [row | {"text": "A page of words. " * 20} for row in rows])
    code, output = forks.call(run, name, tmp_path)
    assert code == 0, output
    tables = [path.read_text() for path in (tmp_path / "results").glob("*")]
    assert bool(tables) == (name not in OF_GPUS)
    assert "\n| --- |" in output
    assert all(table in output for table in tables)


def time_layers(name: str, folder: Path) -> None:
    """Time the layers of a benchmark at one tiny size, and print how often W' was built from each W, sorted."""
    module, builds = tiny(name, folder), Counter()
    build = effective_weight.build

    def counted(out, W, *factors):
        builds[W.data_ptr()] += 1
        return build(out, W, *factors)

    effective_weight.build = counted
    if name == "lora":
        module.measure((64, 48), 32, torch.float32)
    else:
        module.layer_rows((64, 48), 32, 1, torch.device("cpu"))
    print("builds", *sorted(builds.values()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "lora_gpu"])
def test_the_row_whose_effective_weight_is_kept_builds_it_once_while_it_is_timed(tmp_path, name):
    code, output = forks.call(time_layers, name, tmp_path)
    assert code == 0, output
    timed = [int(number) for number in output.split("builds ")[1].split()]
    # The MB that it keeps are counted after that, in a single forward pass.
    assert timed[0] == 2 and timed[1] > 4, timed


def calibrate(folder: Path) -> None:
    """Calibrate in the benchmark of a GPU with a temporary folder of the system that is watched."""
    module = tiny("lora_model_gpu", folder)
    tempfile.tempdir = str(folder)
    model = module.base_model(module.CALIBRATED, "tiny", 1, torch.device("cpu"))
    step = module.own_step(module.CALIBRATED, model, 16, torch.device("cpu"))
    assert not list(folder.glob("tmp*"))
    step()


@pytest.mark.slow
def test_a_model_of_a_benchmark_is_not_written_into_the_folder_of_the_system(tmp_path):
    code, output = forks.call(calibrate, tmp_path)
    assert code == 0, output
