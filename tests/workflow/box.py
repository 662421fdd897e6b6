"""Two finished runs in a folder, made by the scripts in this process."""

from pathlib import Path

from hub_cache import write_generated
from project import succeed
from sparseft.models.checkpoints.model_source import prepare_model
from sparseft.models.checkpoints.settings import Model
from tiny_models import save_tiny

RUNS = [f"tiny-hellaswag_mini-{method}-sparsity50-sparse_to_sparse-seed0" for method in ("structured", "random")]
TRAINING = {"steps": 4, "batch_size": 4, "micro_batch_size": 2, "lora_r": 4, "learning_rate": 0.02, "save_every": 1}


def mask_of(box: Path, run: str) -> Path:
    return box / f"masks/tiny/masks_sparsity50_{run.split('-')[2]}.pt"


def flags(box: Path, run: str, script: str, out: Path) -> dict:
    """The flags of a script for one of the runs, which writes into `out`."""
    folder = box / "results/runs" / run
    model, mask, data = box / "models/tiny", mask_of(box, run), box / "data"
    adapter = {"run_id": run, "model_path": model, "mask_path": mask, "adapter": folder / "adapter"}
    scored = {"task": "hellaswag_mini", "data_dir": data}
    merged = {"checkpoint": folder / "model_dir", "mask_path": mask}
    return {
        "compute_masks.py": {"model_path": model, "output_dir": out / "masks", "sparsity": [0.5, 0.8],
                             "method": "random",
                             "plot": True},
        "compute_masks.py --pruned_dir": {"model_path": model, "output_dir": out / "masks",
                                          "pruned_dir": out / "pruned",
                                          "sparsity": 0.5, "method": "unstructured_sparsegpt", "task": "hellaswag_mini",
                                          "data_dir": data, "calibration_examples": 4},
        "train.py": {"run_id": run, "model_path": model, "mask_path": mask, "data_dir": data, "output_dir": out,
                     **TRAINING},
        "reconstruct.py": {"run_id": run.replace("sparse_to_sparse", "reconstruct"), "model_path": model,
                           "mask_path": mask,
                           "data_dir": data, "calibration_examples": 4, "output_dir": out, **TRAINING},
        "merge.py": {**adapter, "output_dir": out / "model_dir", "report": out / "merge.json"},
        "validate_sparsity.py": {"run_id": run, **merged, "base": model, "output": out / "validation_report.json"},
        "evaluate.py": {"run_id": run, "checkpoint": folder / "model_dir", **scored, "output": out / "evaluation.json"},
        "evaluate.py --split selection": {"run_id": run, "checkpoint": folder / "model_dir", **scored,
                                         "split": "selection", "output": out / "selection.json"},
        "evaluate.py --adapter": {"run_id": run, "checkpoint": model, "mask_path": mask, "adapter": folder / "adapter",
                                  **scored,
                                  "output": out / "before_merge.json"},
        "measure_throughput.py": {"cell": run.removesuffix("-seed0"), "model_path": model, "mask_path": mask,
                                  "data_dir": data, "batch_sizes": 2, "steps": 1, "warmup_steps": 0, "repeats": 1,
                                  "output": out / "cell.json"},
        "analyze_results.py": {"results_dir": box / "results/runs", "output_dir": out / "analysis", "plot": True},
        "import_pruned.py": {"model_path": model, "source": f"path:{folder / 'model_dir'}", "name": "merged",
                             "sparsity": 0.5, "output_dir": out / "masks", "pruned_dir": out / "pruned"},
        "export_run.py": {"run_id": run, **merged, "model_path": box / "models/prepared", "output_dir": out / "export"},
        "check_engines.py": {"run_id": run, "export_dir": out / "export", "model_path": box / "models/prepared",
                             "data_dir": box / "data", "output": out / "engines.json"},
        "export_modelzoo.py": {"model_path": model, "mask_path": mask, "output_dir": out / "exported"},
    }[script]  # fmt: skip


def make(box: Path) -> Path:
    """Fill `box`: the model, its masks, the task's rows, and both runs with every file of theirs."""
    save_tiny("llama", box / "models/tiny")
    prepare_model(Model(source=f"path:{box / 'models/tiny'}", dtype="bfloat16"), box / "models/prepared")
    task = {"task": "hellaswag_mini", "train_examples": 24, "validation_examples": 12}
    write_generated(box / "data", "hellaswag_mini", 24, 12)
    succeed("prepare_selection.py", **task, data_dir=box / "data")
    masks = {"model_path": box / "models/tiny", "output_dir": box / "masks/tiny", "sparsity": 0.5}
    for run in RUNS:
        succeed("compute_masks.py", **masks, method=run.split("-")[2])
        for script in ("train.py", "merge.py", "validate_sparsity.py", "evaluate.py", "evaluate.py --split selection",
                       "evaluate.py --adapter"):  # fmt: skip
            succeed(script, **flags(box, run, script, box / "results/runs" / run))
    return box
