"""Bad input: one line on stderr, exit code 2, and every file as it was.

The tests check the place and the value that the line names; its sentences may change."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from project import ROOT, TINY_STUDY, Study, call_script, run_script, tiny_grid
from safetensors.torch import load_file, save_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.masks.mask_file import Mask, read_mask
from tiny_models import save_tiny

from masks import write_mask

RUN = "llama-boolq_mini-unstructured-sparsity50-sparse_to_dense-seed0"
CELL = RUN.removesuffix("-seed0")


def tree(folder: Path) -> dict[str, str]:
    """Every file under `folder` with the sha256 of its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(folder: Path, name: str, *arguments: object) -> str:
    """Run a script that must refuse its input; returns the one line, after checking code, line and files."""
    before = tree(folder)
    code, said = call_script(name, *arguments)
    assert code == 2, said
    assert said.count("\n") == 1, said
    assert said.startswith("error: ")
    assert "; " in said, "no hint how to mend it"
    assert tree(folder) == before
    return said.strip()


@pytest.fixture
def box(tmp_path, small_study) -> Path:
    """A copy of the finished study's inputs and of one run."""
    for name in ("models", "data", "masks", f"results/runs/{RUN}"):
        shutil.copytree(small_study.folder / name, tmp_path / name)
    return tmp_path


def masks_of(box: Path, model: Path, *arguments: object) -> tuple:
    return (box, "compute_masks.py", "--model_path", model, "--output_dir", box / "out", *arguments)


def train_of(box: Path, **changes: object) -> tuple:
    """train.py on the box; `changes` replace a flag's value."""
    flags = {"run_id": RUN, "model_path": box / "models/llama", "mask_path": box / "masks/llama/masks_sparsity50_unstructured.pt",
             "data_dir": box / "data/boolq_mini", "output_dir": box / "new", "steps": 2} | changes  # fmt: skip
    return (box, "train.py", *(f"--{name}={value}" for name, value in flags.items()))


def unsound(box: Path, change) -> Path:
    """The box's model with its tensors changed, and without the manifest that knows them."""
    model = box / "models/llama"
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (model / "manifest.json").unlink()
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["unstructured", "structured", "semistructured"])
def test_a_weight_that_is_no_number(box, value, method):
    name = "model.layers.1.mlp.up_proj.weight"
    model = unsound(box, lambda weights: weights[name].view(-1)[-1:].fill_(value))
    line = refused(*masks_of(box, model, "--sparsity", 0.5, "--method", method))
    assert line.startswith(f"error: {name} holds NaN")


def test_a_shard_that_is_missing(box):
    model = box / "models/llama"
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    (model / "manifest.json").unlink()
    line = refused(*masks_of(box, model, "--sparsity", 0.5, "--method", "unstructured"))
    assert line.startswith(f"error: {model}/model-2.safetensors: no such file; ")


def test_an_index_that_names_a_file_outside_its_folder(box):
    model = box / "models/llama"
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../mistral.safetensors"}}))
    (model / "model.safetensors").rename(box / "models/mistral.safetensors")
    (model / "manifest.json").unlink()
    line = refused(*masks_of(box, model, "--sparsity", 0.5, "--method", "unstructured"))
    assert "'../mistral.safetensors' leaves the model folder" in line


def test_a_calibration_set_that_is_empty_or_too_small(box):
    call = masks_of(box, box / "models/llama", "--sparsity", 0.5, "--method", "unstructured_wanda")
    line = refused(*call)
    assert line.startswith("error: unstructured_wanda ")
    assert "--task" in line
    call += ("--task", "boolq_mini", "--data_dir", box / "data/boolq_mini")
    line = refused(*call)
    assert re.search(r"masks.calibration_examples 128: .* 24 training rows", line)
    (box / "data/boolq_mini/train.jsonl").write_text("\n")
    assert f"error: {box}/data/boolq_mini/train.jsonl: holds no row" in refused(*call)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_disk_that_is_full_leaves_no_mask(box, suffix):
    script = ROOT / "workflow/scripts/compute_masks.py"
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    before = tree(box)
    flags = ["--model_path", box / "models/llama", "--output_dir", box / "out", "--sparsity", "0.1", "0.5", "0.9"]
    done = subprocess.run([sys.executable, "-c", limited, script, *flags, "--method", "unstructured", "--format", suffix],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "free space" in done.stderr
    assert done.stderr.count("\n") == 1
    assert tree(box) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may mount a small file system")
def test_a_small_file_system_that_is_full_leaves_no_mask(box):
    (box / "small").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", box / "small"], check=False).returncode:
        pytest.skip("needs root, who may mount a small file system")
    try:
        flags = [
            "--model_path",
            box / "models/llama",
            "--output_dir",
            box / "small/out",
            "--sparsity",
            "0.1",
            "0.5",
            "0.9",
        ]
        done = run_script("compute_masks.py", *flags, "--method", "unstructured")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "No space left on device" in done.stderr
        assert list((box / "small/out").iterdir()) == []
    finally:
        subprocess.run(["umount", box / "small"], check=True)


def test_a_missing_model_folder(box):
    line = refused(*masks_of(box, box / "nowhere", "--sparsity", 0.5, "--method", "unstructured"))
    assert line.startswith(f"error: {box}/nowhere: no such model folder; ")


@pytest.mark.parametrize("size", [0, 7, 100, 5000])
def test_a_truncated_safetensors_file(box, size):
    file = box / "models/llama/model.safetensors"
    (box / "models/llama/manifest.json").unlink()
    file.write_bytes(file.read_bytes()[:size])
    line = refused(*masks_of(box, box / "models/llama", "--sparsity", 0.5, "--method", "unstructured"))
    assert line.startswith(f"error: {file}: truncated")


@pytest.mark.parametrize("script", ["compute_masks.py", "train.py", "merge.py", "evaluate.py", "evaluate_adapter.py",
                                    "validate_sparsity.py", "measure_throughput.py", "export_modelzoo.py"])  # fmt: skip
@pytest.mark.parametrize(
    ("name", "old", "new"), [("config.json", "1e-06", "1e-05"), ("tokenizer.json", "<pad>", "<PAD>")]
)
def test_an_edited_file_of_the_prepared_base(box, script, name, old, new):
    base, mask = box / "models/llama", box / "masks/llama/masks_sparsity50_unstructured.pt"
    (base / name).write_text((base / name).read_text().replace(old, new))
    adapter = box / f"results/runs/{RUN}/adapter"
    flags = {
        "compute_masks.py": {"model_path": base, "output_dir": box / "out", "sparsity": 0.5, "method": "unstructured"},
        "train.py": {"run_id": RUN, "model_path": base, "mask_path": mask, "data_dir": box / "data/boolq_mini", "output_dir": box / "new"},
        "merge.py": {"model_path": base, "mask_path": mask, "adapter": adapter, "output_dir": box / "new", "report": box / "new.json"},
        "evaluate.py": {"checkpoint": base, "task": "boolq_mini", "data_dir": box / "data/boolq_mini", "output": box / "new.json"},
        "evaluate_adapter.py": {"model_path": base, "mask_path": mask, "adapter": adapter, "task": "boolq_mini", "data_dir": box / "data/boolq_mini", "output": box / "new.json"},
        "validate_sparsity.py": {"checkpoint": adapter.with_name("model_dir"), "mask_path": mask, "base": base, "output": box / "new.json"},
        "measure_throughput.py": {"cell": CELL, "model_path": base, "mask_path": mask, "data_dir": box / "data/boolq_mini", "output": box / "new.json"},
        "export_modelzoo.py": {"model_path": base, "mask_path": mask, "output_dir": box / "new"},
    }[script]  # fmt: skip
    line = refused(box, script, *(part for flag, value in flags.items() for part in (f"--{flag}", value)))
    assert line.startswith(f"error: {base}/{name}: ")
    assert "manifest.json" in line


def test_the_records_of_a_run_cover_configuration_and_tokenizer_and_say_the_dtype(small_study):
    folder = f"results/runs/{RUN}"
    names = ("train", "before_merge", "merge", "validation_report", "evaluation")
    train, before, merge, validation, evaluation = (small_study.json(f"{folder}/{name}.json") for name in names)
    hashes = Checkpoint(small_study.folder / folder / "model_dir").hashes()
    assert merge["outputs"] == validation["inputs"]["checkpoint"] == evaluation["inputs"]["model"] == hashes
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert hashes.keys() == {"model.safetensors", "config.json", "generation_config.json"} | tokenizer
    assert train["dtype"] == before["dtype"] == evaluation["dtype"] == "bfloat16"


def test_a_truncated_file_under_its_manifest(box):
    file = box / "models/llama/model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    line = refused(*masks_of(box, box / "models/llama", "--sparsity", 0.5, "--method", "unstructured"))
    assert line.startswith(f"error: {file}: ")


@pytest.mark.parametrize("method", ["wandering", "random_magnitude", "unstructured_wander", "dense_x"])
def test_an_unknown_method(box, method):
    line = refused(*masks_of(box, box / "models/llama", "--sparsity", 0.5, "--method", method))
    assert line.startswith(f"error: method '{method}' is unknown; ")
    assert "unstructured, structured" in line


@pytest.mark.parametrize("sparsity", ["1", "1.0", "100", "-0.1", "0.333", "half", "nan"])
def test_an_impossible_sparsity(box, sparsity):
    line = refused(*masks_of(box, box / "models/llama", f"--sparsity={sparsity}", "--method", "random"))
    assert line.startswith(f"error: --sparsity {sparsity}: ")


@pytest.mark.parametrize("script", ["train.py", "merge.py"])
def test_a_mask_of_another_model(box, tmp_path_factory, script):
    other = save_tiny("mixtral", tmp_path_factory.mktemp("other") / "mixtral")
    call = train_of(box, model_path=other)
    if script == "merge.py":
        call = (box, script, "--model_path", other, "--mask_path", box / "masks/llama/masks_sparsity50_unstructured.pt",
                "--output_dir", box / "new", "--report", box / "new.json")  # fmt: skip
    line = refused(*call)
    assert "masks_sparsity50_unstructured.pt: " in line
    assert "24 layers without a mask" in line


def test_a_mask_of_the_same_shapes_but_other_weights(box):
    file = box / "models/llama/model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
    save_file(weights, file, metadata={"format": "pt"})
    (box / "models/llama/manifest.json").unlink()
    assert f"error: {box}/masks/llama/masks_sparsity50_unstructured.pt: " in refused(*train_of(box))


def test_a_damaged_mask(box):
    path = box / "masks/llama/masks_sparsity50_unstructured.pt"
    path.write_bytes(path.read_bytes()[:900])
    assert f"{path}: not a mask file" in refused(*train_of(box))


def test_an_empty_task_file(box):
    (box / "data/boolq_mini/train.jsonl").write_text("")
    line = refused(*train_of(box))
    assert line.startswith(f"error: {box}/data/boolq_mini/train.jsonl: holds no row; ")


def test_a_task_file_with_a_fault_names_the_line(box):
    path = box / "data/boolq_mini/validation.jsonl"
    rows = path.read_text().splitlines()
    rows[4] = json.dumps({"passage": "p", "answer": True})
    path.write_text("\n".join(rows))
    assert "validation.jsonl, line 5: field 'question'" in refused(*train_of(box))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"run_id": "nonsense"}, "nonsense"),
        ({"steps": 0}, "error: --steps: "),
        ({"steps": "many"}, "'many'"),
        ({"micro_batch_size": 3}, "micro_batch_size 3 does not divide batch_size 8"),
        ({"learning_rate": -1}, "error: --learning_rate: "),
        ({"lora_dropout": 0.1, "run_id": RUN.replace("to_dense", "to_sparse")}, "sparse_to_sparse"),
        ({"lora_targets": "w1"}, "training.lora_targets: the model has none of w1; "),
        ({"shard_model": 1}, "training.shard_model needs "),
    ],
)
def test_training_flags_out_of_range(box, changes, line):
    assert line in refused(*train_of(box, **changes))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"cell": RUN}, f"'{RUN}' is not the name of a cell"),
        ({"cell": CELL.replace("sparse_to_dense", "no_finetune")}, "is not trained"),
        ({"cell": CELL.replace("unstructured", "random")}, "llama-boolq_mini-random-sparsity50-sparse_to_dense"),
        ({"cell": CELL.replace("unstructured", "best")}, "is not the name of a cell"),
        ({"batch_sizes": 0}, "throughput: batch_sizes.0: "),
        ({"repeats": 0}, "throughput: repeats: "),
        ({"memory_mb": "much"}, "'much'"),
        ({"shard_model": 1}, "training.shard_model needs "),
        ({"lora_targets": "w1"}, "training.lora_targets: the model has none of w1"),
        ({"sequence_length": 513, "batch_sizes": 2}, "throughput.sequence_length 513: the model takes 512 tokens"),
    ],
)
def test_throughput_flags_out_of_range(box, changes, line):
    flags = {"cell": CELL, "model_path": box / "models/llama", "mask_path": box / "masks/llama/masks_sparsity50_unstructured.pt",
             "data_dir": box / "data/boolq_mini", "output": box / "new.json"} | changes  # fmt: skip
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value)]
    assert line in refused(box, "measure_throughput.py", *arguments)


def test_a_damaged_adapter(box):
    path = box / f"results/runs/{RUN}/adapter/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:300])
    mask = box / "masks/llama/masks_sparsity50_unstructured.pt"
    line = refused(box, "merge.py", "--model_path", box / "models/llama", "--mask_path", mask, "--adapter", path.parent,
                   "--output_dir", box / "new", "--report", box / "new.json")  # fmt: skip
    assert line.startswith(f"error: {path.parent}: ")
    assert f"rm -r {path.parent}" in line


def test_an_output_folder_that_cannot_be_made(box):
    (box / "out").write_text("a file, not a folder")
    line = refused(*masks_of(box, box / "models/llama", "--sparsity", 0.5, "--method", "random"))
    assert f"{box}/out" in line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("grdi={}", "error: configuration: grdi: unknown key"),
        (
            "grid={sparsities: [100]}",
            "error: configuration: grid.sparsities.0: Input should be less than 100, not '100'",
        ),
        (
            "grid={methods: [best]}",
            "error: configuration: grid.methods.0: method 'best' is unknown; choose one of unstructured, structured, ",
        ),
    ],
)
def test_a_fault_in_the_configuration_stops_snakemake_before_any_job(tmp_path, override, line):
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--config", override]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    errors = [row for row in done.stderr.splitlines() if row.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(line)
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name != ".snakemake"]


def test_missing_local_sources_stop_snakemake_in_one_line(tmp_path, tiny_models):
    study = Study(tmp_path)
    folders = {"a": tmp_path / "a", "b": tmp_path / "b", "llama": tiny_models["llama"]}
    study.configure(folders, grid={**tiny_grid("a", "boolq_mini"), "models": ["a", "b", "llama"]}, **TINY_STUDY)
    said = study.snakemake("--dry-run", expect=2)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    missing = ", ".join(f"models.{name}: {name}/config.json: no such file" for name in "ab")
    assert lines == [f"error: {missing}; correct the source, or put the files there"]
    assert "Traceback" not in said


def test_one_altered_weight_fails_the_validation(box):
    model = box / f"results/runs/{RUN}/model_dir"
    weights = load_file(model / "model.safetensors")
    flat = weights["model.layers.1.mlp.down_proj.weight"].view(-1)
    (model.parent / "merge.json").unlink()  # which knows the file as it was
    place = int((flat == 0).nonzero()[0])
    flat[place] = 1e-6
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    done = validated(box, model, box / "masks/llama/masks_sparsity50_unstructured.pt")
    report = json.loads((box / "report.json").read_text())
    assert done.returncode == 1
    assert (report["passed"], report["violations"]) == (False, 1)
    assert report["max_abs_violation"] == pytest.approx(1e-6, rel=2**-8)
    assert [row["layer"] for row in report["layers"] if row["violations"]] == ["model.layers.1.mlp.down_proj"]


def test_a_mask_that_matches_no_layer_fails_the_validation(box):
    mask = box / "elsewhere.pt"
    real = read_mask(box / "masks/llama/masks_sparsity50_unstructured.pt")
    renamed = {layer.replace("layers", "blocks"): layer for layer in real.shape}
    write_mask(mask, Mask(real.meta, {new: real.bits[old] for new, old in renamed.items()},
                          {new: real.shape[old] for new, old in renamed.items()}))  # fmt: skip
    done = validated(box, box / f"results/runs/{RUN}/model_dir", mask)
    report = json.loads((box / "report.json").read_text())
    assert done.returncode == 1
    assert (report["passed"], report["layers_checked"], report["layers_expected"]) == (False, 0, 14)


def validated(box: Path, model: Path, mask: Path) -> subprocess.CompletedProcess:
    return run_script(
        "validate_sparsity.py", "--checkpoint", model, "--mask_path", mask, "--output", box / "report.json"
    )


def merge_of(box: Path, **changes: object) -> tuple:
    """merge.py on the box's run; `changes` replace a flag's value."""
    flags = {"model_path": box / "models/llama", "mask_path": box / "masks/llama/masks_sparsity50_unstructured.pt",
             "adapter": box / f"results/runs/{RUN}/adapter", "output_dir": box / "new", "report": box / "new.json"} | changes  # fmt: skip
    return (box, "merge.py", *(part for name, value in flags.items() for part in (f"--{name}", value)))


@pytest.mark.parametrize(("flag", "place"), [
    ("output_dir", "models/llama"), ("output_dir", "models/llama/new"), ("report", "models/llama/config.json"),
    ("report", "masks/llama/masks_sparsity50_unstructured.pt"), ("report", f"results/runs/{RUN}/adapter/merge.json"),
])  # fmt: skip
def test_a_merge_over_its_own_input(box, flag, place):
    assert f"error: {box / place} is an input" in refused(*merge_of(box, **{flag: box / place}))


@pytest.mark.parametrize("place", ["new", "new/merge.json", "models"])
def test_a_merge_whose_report_has_no_place(box, place):
    line = refused(*merge_of(box, report=box / place))
    assert line.startswith(f"error: {box / place}: ")
    assert "report" in line


def test_a_merge_that_overflows(box):
    path = box / f"results/runs/{RUN}/adapter/adapter_model.safetensors"
    save_file({name: torch.full_like(tensor, 1e19) for name, tensor in load_file(path).items()}, path)
    (path.parents[1] / "train.json").unlink()  # which knows the file as it was
    assert "NaN or infinity in BF16" in refused(*merge_of(box))


def test_a_training_over_other_files_is_refused_before_it_starts(box):
    (box / "new").mkdir()
    (box / "new/adapter").write_text("mine")
    assert "new/adapter: a file is in its place" in refused(*train_of(box))


MASK, ADAPTER = "masks/llama/masks_sparsity50_unstructured.pt", f"results/runs/{RUN}/adapter"
MERGED = f"results/runs/{RUN}/model_dir"


@pytest.mark.parametrize(("script", "flags"), [
    ("train.py", {"output_dir": "models/llama"}),
    ("train.py", {"output_dir": "data/boolq_mini/new"}),
    ("compute_masks.py", {"output_dir": "models/llama/masks"}),
    ("compute_masks.py", {"output_dir": "data/boolq_mini", "data_dir": "data/boolq_mini"}),
    ("compact.py", {"output_dir": f"{MERGED}/small"}),
    ("export_modelzoo.py", {"output_dir": "models/llama/cs"}),
    ("validate_sparsity.py", {"output": f"{MERGED}/report.json"}),
    ("evaluate.py", {"output": f"{MERGED}/evaluation.json"}),
    ("evaluate.py", {"output": "data/boolq_mini/train.jsonl"}),
    ("evaluate_selection.py", {"output": "data/boolq_mini/selection.jsonl"}),
    ("evaluate_adapter.py", {"output": f"{ADAPTER}/before_merge.json"}),
    ("measure_throughput.py", {"output": "models/llama/cell.json"}),
    ("analyze_results.py", {"output_dir": "results/runs/analysis"}),
    ("prepare_task.py", {"output_dir": "data/boolq_mini"}),
    ("prepare_model.py", {"output_dir": "models/llama"}),
    ("prepare_model.py", {"output_dir": "models/llama/new"}),
])  # fmt: skip
def test_no_script_writes_into_its_own_input(box, script, flags):
    assert "is an input" in refused(box, script, *words_of(box, script, flags))


@pytest.mark.parametrize(("script", "flags", "place"), [
    ("validate_sparsity.py", {"output": "other/model.safetensors"}, "other/model.safetensors: a file of another kind"),
    ("validate_sparsity.py", {"output": f"results/runs/{RUN}/merge.json"}, "merge.json: a file of another kind"),
    ("evaluate.py", {"output": f"results/runs/{RUN}/before_merge.json"}, "before_merge.json: a file of another kind"),
    ("evaluate_selection.py", {"output": f"results/runs/{RUN}/evaluation.json"}, "evaluation.json: a file of another kind"),
    ("evaluate_adapter.py", {"output": f"results/runs/{RUN}/evaluation.json"}, "evaluation.json: a file of another kind"),
    ("measure_throughput.py", {"output": "other/config.json"}, "other/config.json: a file of another kind"),
    ("merge.py", {"report": "other/config.json"}, "other/config.json: a file of another kind"),
    ("merge.py", {"output_dir": "models/copy"}, "models/copy: a folder with other files"),
    ("write_configuration.py", {"output": "other/config.json"}, "other/config.json: a file of another kind"),
    ("analyze_throughput.py", {"table": "other/config.json"}, "other/config.json: a file of another kind"),
    ("prepare_task.py", {"output_dir": "models/copy"}, "models/copy/manifest.json: a file that would be lost"),
    ("prepare_task.py", {"output_dir": "masks/llama"}, "masks/llama/.sparseft: a file that would be lost"),
    ("compute_masks.py", {"output_dir": "data/boolq_mini"}, "data/boolq_mini/.sparseft: a file that would be lost"),
])  # fmt: skip
def test_no_script_replaces_files_of_another_kind(box, script, flags, place):
    shutil.copytree(box / "models/llama", box / "models/copy")
    shutil.copytree(box / "models/llama", box / "other")
    (box / "other/.sparseft").unlink()
    assert f"{box}/" in (line := refused(box, script, *words_of(box, script, flags)))
    assert place in line


def words_of(box: Path, script: str, flags: dict) -> list:
    """Return the words of a command that is right but for `flags`, its outputs in the box."""
    base = {"model_path": "models/llama", "mask_path": MASK}
    scored = {"task": "boolq_mini", "data_dir": "data/boolq_mini"}
    given = {
        "train.py": {"run_id": RUN, **base, "data_dir": "data/boolq_mini"},
        "compute_masks.py": {"model_path": "models/llama", "sparsity": "0.5", "method": "random"},
        "compact.py": {"checkpoint": MERGED, "mask_path": MASK},
        "export_modelzoo.py": base,
        "validate_sparsity.py": {"checkpoint": MERGED, "mask_path": MASK},
        "evaluate.py": {"checkpoint": MERGED, **scored},
        "evaluate_selection.py": {"checkpoint": MERGED, **scored},
        "evaluate_adapter.py": {**base, "adapter": ADAPTER, **scored},
        "measure_throughput.py": {"cell": CELL, **base, "data_dir": "data/boolq_mini"},
        "analyze_results.py": {"results_dir": "results/runs"},
        "prepare_task.py": {"task": "boolq", "local": str(box / "data/boolq_mini")},
        "prepare_model.py": {"source": f"path:{box}/models/llama"},
        "merge.py": {**base, "adapter": ADAPTER, "output_dir": "new", "report": "new.json"},
        "write_configuration.py": {"text": "# A study"},
        "analyze_throughput.py": {"records": "cell.json", "plots": "plots"},
    }[script] | flags
    outputs = ("output", "output_dir", "report")
    return [part for name, value in given.items()
            for part in (f"--{name}", box / value if (box / value).exists() or name in outputs else value)]  # fmt: skip


def test_masks_over_files_of_others(box):
    (box / "out").mkdir()
    for name in ("report_random_sparsity50.json", "masks_sparsity50_random.pt"):
        (box / "out" / name).write_text("mine")
        line = refused(*masks_of(box, box / "models/llama", "--sparsity", 0.5, "--method", "random"))
        assert f"{name}: a file that would be lost" in line
        (box / "out" / name).unlink()


@pytest.mark.parametrize("name", ["summary.csv", "baseline_comparison.csv", "EXPERIMENTS.md"])
def test_an_analysis_over_files_of_others(box, name):
    (box / "out").mkdir()
    (box / "out" / name).write_text("mine")
    line = refused(box, "analyze_results.py", "--results_dir", box / "results/runs", "--output_dir", box / "out")
    assert f"{name}: a file that would be lost" in line


def test_a_training_over_a_data_set_called_train_json(box):
    (box / "new").mkdir()
    (box / "new/train.json").write_text("my data")
    assert "new/train.json: a file of another kind" in refused(*train_of(box))


def test_a_merge_over_another_checkpoint(box, tmp_path_factory):
    other = save_tiny("llama", tmp_path_factory.mktemp("other") / "llama")
    assert "a folder with other files, which would be lost" in refused(*merge_of(box, output_dir=other))
    assert (other / "model.safetensors").exists()


UNTRAINED = RUN.replace("sparse_to_dense", "no_finetune")


@pytest.mark.parametrize(("run_id", "adapter", "line"), [
    (UNTRAINED, True, f"{UNTRAINED} is not trained"),
    (RUN, False, f"{RUN} is trained"),
    (RUN.replace("seed0", "seed1"), True, f"its run_id is {RUN}, not {RUN.replace('seed0', 'seed1')}"),
    (RUN.replace("to_dense", "to_sparse"), True, f"its run_id is {RUN}, not "),
])  # fmt: skip
def test_a_merge_that_contradicts_its_run_id(box, run_id, adapter, line):
    flags = [
        "--model_path",
        box / "models/llama",
        "--mask_path",
        box / MASK,
        *(["--adapter", box / ADAPTER] if adapter else []),
    ]
    flags += ["--output_dir", box / "new", "--report", box / "new.json", "--run_id", run_id]
    assert line in refused(box, "merge.py", *flags)


@pytest.mark.parametrize(("run_id", "line"), [
    (UNTRAINED, f"{UNTRAINED} is not trained"), (RUN.replace("seed0", "seed1"), f"its run_id is {RUN}, not "),
])  # fmt: skip
def test_an_evaluation_of_another_run_s_adapter(box, run_id, line):
    assert line in refused(box, "evaluate_adapter.py", "--run_id", run_id, "--model_path", box / "models/llama",
                           "--mask_path", box / MASK, "--adapter", box / ADAPTER, "--task", "boolq_mini",
                           "--data_dir", box / "data/boolq_mini", "--output", box / "new.json")  # fmt: skip


@pytest.mark.parametrize(("run_id", "line"), [
    ("", "'' is not the name of a run"), ("../x", "'../x' is not the name of a run"),
    (RUN.replace("boolq_mini", "gsm8k_mini"), "--task boolq_mini: not the task of llama-gsm8k_mini-"),
])  # fmt: skip
def test_an_evaluation_under_the_name_of_no_run_or_of_another_task(box, run_id, line):
    assert line in refused(box, "evaluate.py", "--run_id", run_id, "--checkpoint", box / MERGED, "--task", "boolq_mini",
                           "--data_dir", box / "data/boolq_mini", "--output", box / "new.json")  # fmt: skip
