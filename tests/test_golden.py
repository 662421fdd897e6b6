"""Notice a result that changed while its version did not.

golden.json has the version of each stage and of each value of an axis, and what it makes of tiny models: numbers, and
digests of texts. After a change that is meant, raise the version, and write the file again:

    .venv/bin/python tests/test_golden.py
"""

import json
import sys
import tempfile
from contextlib import chdir
from importlib import import_module
from math import isclose
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import torch
from analysis.frames import CELLS, write_run
from hub_cache import write
from project import ROOT, read_record, succeed
from safetensors.torch import load_file
from sparseft.axes.grid import Run
from sparseft.axes.methods import METHODS
from sparseft.axes.modes import MODES
from sparseft.axes.tasks import BY_NAME, KINDS, TASKS
from sparseft.data.prepared import find_task
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.pruning.compact import compact
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.storage.hashes import sha256_of_text
from tiny_models import MODELS, edited, loaded, save_tiny

GOLDEN = Path(__file__).with_name("golden.json")
KNOWN = json.loads(GOLDEN.read_text())
# Stages whose names begin so measure speed, need Cerebras' or an engine's environment, or copy and print results.
LEFT_OUT = ("measure_", "join_measurements", "analyze_throughput", "train_", "export_modelzoo", "gen_train_config",
            "check_engines", "estimate", "export_study", "write_configuration", "find_shares", "ship")  # fmt: skip
FILES = sorted(ROOT.glob("lib/sparseft/stages/[a-z]*.py"))
STAGES = [file.stem for file in FILES if not file.stem.startswith(LEFT_OUT)]
TABLES = {
    axis: import_module(f"sparseft.axes.{axis}") for axis in "importances patterns modes architectures tasks".split()
}
VALUES = {f"{axis} {one.name}": one for axis, table in TABLES.items() for one in getattr(table, axis.upper())}
VERSIONS = {name: value.version for name, value in VALUES.items()}
VERSIONS |= {f"tasks {name}": kind.version for name, kind in KINDS.items()}
VERSIONS |= {f"stages {name}": import_module(f"sparseft.stages.{name}").VERSION for name in STAGES}
Entries = dict[str, list]
BASE, MASK, RUN = Path("models/llama"), "masks/masks_sparsity50_{}.pt", "runs/llama-boolq_mini-{}-sparsity50-{}-seed0"
DATA, SIZES = {"task": "boolq_mini", "data_dir": "data/boolq_mini"}, {"train_examples": 24, "validation_examples": 12}
TRAINED = {"steps": 4, "batch_size": 4, "micro_batch_size": 2, "warmup_fraction": 0.25}

QUIZ = """{output_type: multiple_choice, training_split: train, validation_split: validation, doc_to_target: 0,
doc_to_text: "{{prompt}}", doc_to_choice: ["{{response}}", " 7"], metric_list: [{metric: acc}]}"""


def digest(value: object) -> str:
    return sha256_of_text(json.dumps(value))[:12]


def lines_of(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def share(folder: Path, method: str = "", without: Path | None = None) -> list[float]:
    """Return how much of sum |W| is left of each prunable matrix of the last decoder layer, under a method's mask.

    The weights of another model may be subtracted from them."""
    ours, base = (load_file(place / "model.safetensors") for place in (folder, BASE))
    other, mask = without and load_file(without / "model.safetensors"), method and read_mask(Path(MASK.format(method)))
    layers = [name.removesuffix(".weight") for name in sorted(ours) if ".1." in name and "proj" in name]
    weights = {name: ours[f"{name}.weight"] - (other[f"{name}.weight"] if other else 0) for name in layers}
    kept = {name: W.numpy() * (mask.kept(name) if mask else 1) for name, W in weights.items()}
    return [float(np.abs(W).sum() / base[f"{name}.weight"].abs().sum()) for name, W in kept.items()]


def of_sources() -> Entries:
    """Prepare tasks, texts, and models whose weights no release of torch draws otherwise."""
    for name in MODELS:
        with edited(save_tiny(name, Path("sources", name), torch.float32)) as tensors:
            for key, tensor in tensors.items():
                drawn = np.random.RandomState(crc32(key.encode())).standard_normal(tensor.shape)
                tensors[key] = torch.from_numpy(0.2 * drawn).float() + (tensor.ndim == 1)
        succeed("prepare_model.py", source=f"path:sources/{name}", dtype="float32", output_dir=f"models/{name}")
    succeed("prepare_model.py", source=f"path:{BASE}", dtype="bfloat16", output_dir="half")
    half = sorted(load_file("half/model.safetensors").items())
    for split, numbers in (("train", range(12)), ("validation", range(12, 20))):
        rows = [{"prompt": f"{n} and 1 =", "response": f" {n + 1}", "text": f"{n} is {n - 1} and 1. "} for n in numbers]
        write(Path(f"rows/{split}.jsonl"), rows)
    Path("quiz.yaml").write_text(QUIZ)
    flags = {task.name: SIZES for task in TASKS if task.generate} | {"lm_eval": {"lm_eval": "quiz.yaml"}}
    for name, own in (flags | {kind: {"kind": kind} for kind in ("instruction", "text")}).items():
        local = {} if name in BY_NAME else {"local": "rows"}
        succeed("prepare_task.py", task=name, output_dir=f"data/{name}", **local, **own)
    succeed("prepare_selection.py", **DATA, **SIZES)
    succeed("prepare_text.py", text="rows/train.jsonl", output="plain.jsonl")
    succeed("sample_text.py", model_path=BASE, output="sampled.jsonl", examples=2, length=24)
    succeed("mix_texts.py", model_path=BASE, output="mixed.jsonl", length=24, text=["plain.jsonl", "sampled.jsonl"],
            windows=[2, 1], task_windows=2, **DATA)  # fmt: skip
    parts = [f"part{number}.jsonl" for number in range(3)]
    succeed("split_texts.py", model_path=BASE, texts="plain.jsonl", output=parts, length=4, calibration=9, training=20,
            held_out=9)  # fmt: skip
    files = {"prepare_selection": "data/boolq_mini/selection", "prepare_text": "plain", "mix_texts": "mixed"}
    found = {f"stages {stage}": [digest(lines_of(f"{file}.jsonl"))] for stage, file in files.items()}
    found["stages split_texts"] = [digest([row["ids"] for row in lines_of(part)]) for part in parts]
    found["stages prepare_task"] = [digest(lines_of(f"data/{name}/train.jsonl")) for name in ("boolq_mini", *KINDS)]
    found["stages prepare_model"] = [digest([tensor.view(torch.int16).tolist() for _, tensor in half])]
    windows = lines_of("sampled.jsonl")
    found["stages sample_text"] = [digest([window["ids"] for window in windows]), *windows[1]["log_p"][:4]]
    for task in [*TASKS, *(find_task(Path("data", kind), kind) for kind in KINDS)]:
        mini = f"{task.name.removesuffix('_mini')}_mini"  # a real task has the fields of its mini task
        rows = lines_of(f"data/{mini if mini in BY_NAME else task.name}/validation.jsonl")
        texts = [[task.prompt(row), task.delimiter, task.answer(row)] for row in rows]
        choices = [[task.choices(row), task.label(row)] for row in rows if task.choices]
        found[f"tasks {task.name}"] = [digest([rows, texts, choices])]
    return found


def of_methods() -> Entries:
    """Prune by a method of each importance, and of each pattern."""
    chosen, found = {name: METHODS[name] for name in ("unstructured_owl", "structured_refit")}, {}
    for entry in (name for name in VALUES if name.startswith(("importances", "patterns"))):
        own = [one for one in METHODS.values() if VALUES[entry] in (one.importance, one.pattern)]
        plain = [one for one in own if not one.importance or one.importance.name in ("magnitude", "random")]
        chosen[entry] = (plain or own)[0]
    names = {entry: one.name + "_on_task" * bool(one.calibration) for entry, one in chosen.items()}
    for model, percent in (("llama", 50), ("mixtral", 43)):  # two of four experts are 43 %
        own = {names[entry] for entry, one in chosen.items() if (one.pattern.removes == "experts") == (percent == 43)}
        succeed("compute_masks.py", model_path=f"models/{model}", output_dir="masks", pruned_dir="pruned", threads=1,
                sparsity=percent / 100, method=sorted(own), calibration_examples=3, head_share=1, **DATA)  # fmt: skip
    for entry, name in names.items():
        if chosen[entry].pattern.units:
            (report,) = Path("masks").glob(f"report_{name}_*.json")
            found[entry] = [score for group in read_record(report)["units"] for score in group["scores"]]
        else:
            pruned = Path(f"pruned/sparsity50_{name}")
            found[entry] = share(pruned if pruned.exists() else BASE, name)
    return found | {"stages compute_masks": found.pop("unstructured_owl") + found.pop("structured_refit")}


def trained(folder: Path, script: str = "train.py", **flags: object) -> list[float]:
    """Train a run, and return its curves."""
    flags |= {"full_learning_rate": 0.02} if "full" in folder.name else {"learning_rate": 0.02, "lora_r": 3}
    succeed(script, run_id=folder.name, model_path=BASE, mask_path=MASK.format("unstructured"), output_dir=folder,
            data_dir=DATA["data_dir"], **TRAINED, **flags)  # fmt: skip
    record = read_record(folder / "train.json")
    steps = [value for step in record["loss_curve"] for value in (step["loss"], step["learning_rate"])]
    return steps + [step["eval_loss"] for step in record["eval_curve"]]


def merged(folder: Path, method: str = "unstructured", **flags: object) -> Path:
    """Merge a run, and return its model."""
    outputs = {"output_dir": folder / "model_dir", "report": folder / "merge.json"}
    succeed("merge.py", run_id=folder.name, model_path=BASE, mask_path=MASK.format(method), **outputs, **flags)
    return folder / "model_dir"


def of_runs() -> Entries:
    """Train and merge a run in each mode. Prove, evaluate, export and import runs."""
    folders = {mode.name: Path(RUN.format("unstructured", mode.name)) for mode in MODES}
    found = {"modes no_finetune": share(merged(folders["no_finetune"]))}
    for mode in (mode for mode in MODES if mode.trains):
        own = {"initial_adapter": folders[mode.starts_from] / "adapter"} if mode.starts_from else {}
        own |= {"script": "reconstruct.py", "calibration_examples": 4} if mode.reconstructs else {}
        curve = trained(folders[mode.name], **own)
        model = merged(folders[mode.name], adapter=folders[mode.name] / mode.trains)
        found[f"modes {mode.name}"] = curve + share(model, without=folders["no_finetune"] / "model_dir")
    curve, merge = np.split(found["modes sparse_to_sparse"], [2 * TRAINED["steps"]])
    found |= {"stages reconstruct": found["modes reconstruct"], "stages merge": merge.tolist()}
    distilled = {"distillation.weight": 0.5, "weight_decay": 1, "eval_every": 2, "lr_scheduler_type": "linear"}
    own = trained(Path(RUN.format("unstructured", "sparse_to_sparse-distilled")), **distilled)
    found["stages train"] = [*curve, *own]
    source = f"path:{folders['sparse_to_sparse']}/model_dir"
    succeed("import_pruned.py", model_path=BASE, source=source, name="other", sparsity=0.5, output_dir="masks",
            pruned_dir="pruned")  # fmt: skip
    folder, mask = Path(RUN.format("structured", "no_finetune")), MASK.format("structured")
    of_run = {"run_id": folder.name, "checkpoint": merged(folder, "structured")}
    succeed("validate_sparsity.py", mask_path=mask, base=BASE, output=folder / "validation_report.json", **of_run)
    probes = [f"{name}:data/{name}" for name in ("hellaswag_mini", "gsm8k_mini", "lm_eval")]
    succeed("evaluate.py", **DATA, output=folder / "evaluation.json", probes=probes, dense=BASE,
            divergence="sampled.jsonl", wikitext2="plain.jsonl", context=20, **of_run)  # fmt: skip
    succeed("export_run.py", mask_path=mask, model_path=BASE, output_dir=folder / "export", **of_run)
    proof, result = (read_record(folder / f"{name}.json") for name in ("validation_report", "evaluation"))
    metrics = [sorted(one["metrics"].items()) for one in (result, *result["probes"].values())]
    return found | {
        "stages import_pruned": share(Path("pruned/sparsity50_imported_other"), "imported_other"),
        "stages validate_sparsity": [proof["actual_sparsity"], *(layer["pruned"] for layer in proof["layers"])],
        "stages evaluate": [value for one in metrics for _, value in one] + [result["divergence"], *result["losses"]],
        "stages export_run": share(folder / "export"),
    }


def of_architectures() -> Entries:
    """Remove half of a model's channels and heads, write what is left, and compute its logits."""
    found = {}
    for name in MODELS:
        small, masks, masked = (Path(place, name) for place in ("small", "structured", "masked"))
        small.mkdir(parents=True)
        given = {"model_path": f"models/{name}", "mask_path": masks / "masks_sparsity50_structured.pt"}
        succeed("compute_masks.py", model_path=given["model_path"], output_dir=masks, method="structured", sparsity=0.5,
                head_share=int(name != "olmo2"))  # fmt: skip
        succeed("merge.py", output_dir=masked, report=masks / "merge.json", **given)
        compact(Checkpoint(masked), given["mask_path"], small)
        logits = loaded(small)(torch.arange(3, 243).reshape(2, 120)).logits  # longer than the windows of 64 tokens
        found[f"architectures {name}"] = [logits.std().item(), logits.abs().mean().item()]
    return found


def of_analysis() -> Entries:
    """Analyse the records of a study."""
    for number, (method, sparsity, mode, value) in enumerate(CELLS * 2):
        run = Run("m", "t", method, sparsity, mode, number // len(CELLS))
        write_run(Path("sound"), run, value - run.seed / 9, loss=2 - value)
    succeed("analyze_results.py", results_dir="sound", output_dir="analysis")
    tables = [pd.read_csv(f"analysis/{name}.csv") for name in ("comparisons", "grouped_summary")]
    columns = [
        table.filter(regex="value|difference|p_holm|rows_needed|loss").select_dtypes("number") for table in tables
    ]
    return {"stages analyze_results": [value for table in columns for value in table.sum()]}


def made() -> Entries:
    """Return what the stages and the values make now."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        parts = [part() for part in (of_sources, of_methods, of_runs, of_architectures, of_analysis)]
    return {name: values for part in parts for name, values in part.items()}


def differs(name: str, values: list) -> bool:
    """Return whether an entry is another one than that of golden.json. Rounding makes no difference."""
    known = KNOWN[name]["values"]
    if len(known) != len(values):
        return True
    pairs = zip(known, values, strict=True)
    return not all(old == new or (type(old) is not str and isclose(old, new, rel_tol=1e-3)) for old, new in pairs)


entries = pytest.fixture(made, scope="module")


@pytest.mark.long
@pytest.mark.parametrize("name", VERSIONS)
def test_a_result_changes_only_with_its_version(entries, name):
    if name not in KNOWN or KNOWN[name]["version"] != VERSIONS[name] or differs(name, entries[name]):
        said = f"{name} changed: raise its version and run `.venv/bin/python tests/test_golden.py`"
        pytest.fail(said, pytrace=False)


if __name__ == "__main__":
    found = made()
    known = KNOWN.keys() & VERSIONS.keys()
    different = sorted(name for name in known if differs(name, found[name]))
    if different and all(KNOWN[name]["version"] == VERSIONS[name] for name in known):
        sys.exit(f"error: {', '.join(different)} changed, and no version; raise that of what you changed")
    lines = [
        f"{json.dumps(name)}: {json.dumps({'version': VERSIONS[name], 'values': found[name]})}" for name in VERSIONS
    ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
