"""The trainer configuration of a run: what ModelZoo's Trainer is given, from the study's own words.

The keys, and that others are refused: github.com/Cerebras/modelzoo, Release_2.10.0, src/cerebras/modelzoo/trainer/. The
callbacks MaskedLora, FrozenBaseSparsity and LastCheckpoint are this project's, callbacks.py: `cszoo` does not know them,
workflow/scripts/run_modelzoo.py does.
"""

from dataclasses import dataclass
from pathlib import Path

from sparseft.backends.modelzoo.model_section import model_section
from sparseft.study.config import Cerebras, Training
from sparseft.training.job import TrainingJob

EPS = 1e-8  # AdamW's; ModelZoo's adds it before the second moment's bias is corrected, torch's after


@dataclass(frozen=True)
class Places:
    """Where a run's files lie: the masked checkpoint, the one to begin with, the batches by split, the Trainer's own folder."""

    checkpoint: Path
    start: Path
    batches: Path
    model_dir: Path


def trainer_configuration(job: TrainingJob, cerebras: Cerebras, places: Places) -> dict:
    """The configuration of a run. Raises InputError as `model_section` does."""
    settings = job.settings
    checkpoint = str(places.checkpoint.resolve())
    micro = "csx.performance.micro_batch_size"
    lora = {"r": settings.lora_r, "alpha": settings.lora_alpha, "dropout": settings.lora_dropout, "merge_weights": False,
            "target_modules": ["TransformerDecoderLayer", "Linear"]}  # fmt: skip
    ours = {"mode": job.mode, "seed": job.seed, "targets": settings.lora_targets, "gradient": settings.gradient}
    init = {
        "backend": _backend(cerebras),
        "model_dir": str(places.model_dir.resolve()),
        "seed": job.seed,
        "model": model_section(job.checkpoint.folder) | {"compute_eval_metrics": False},
        "optimizer": {"AdamW": {"betas": [0.9, 0.999], "eps": EPS, "weight_decay": settings.weight_decay,
                                "correct_bias": True}},
        "schedulers": [_schedule(settings)],
        "precision": _precision(settings, cerebras),
        "loop": {"max_steps": settings.steps},
        "checkpoint": {"steps": settings.save_every or settings.steps},
        "logging": {"log_steps": 1},
        "callbacks": [
            {"ScopedTrainFlags": {micro: cerebras.csx_micro_batch_size}},
            {"ScopedValidateFlags": {micro: cerebras.csx_micro_batch_size}},
            {"Lora": {"lora_params": lora}},
            {"MaskedLora": {"checkpoint": checkpoint, **ours}},
            {"FrozenBaseSparsity": {"checkpoint": checkpoint}},
            {"LastCheckpoint": {}},
        ],
    }  # fmt: skip
    start = str(places.start.resolve())
    train = _loader(places.batches / "train", settings.batch_size)
    validation = _loader(places.batches / "validation", job.evaluation_batch_size)
    fit = {"ckpt_path": start, "train_dataloader": train}
    return {"trainer": {"init": init, "fit": fit, "validate": {"ckpt_path": start, "val_dataloader": validation}}}


def _backend(cerebras: Cerebras) -> dict:
    if cerebras.target == "CPU":
        return {"backend_type": "CPU"}
    names = ("num_csx", "job_labels", "job_priority", "job_time_sec", "mount_dirs", "python_paths")
    cluster = {name: getattr(cerebras, name) for name in names}
    return {"backend_type": "CSX", "compile_dir": cerebras.compile_dir, "cluster_config": cluster}


def _schedule(settings: Training) -> dict:
    """The linear warm-up from 0 and the cosine to 0 of transformers' get_cosine_schedule_with_warmup, tied to the steps."""
    rate, warmup = settings.learning_rate, settings.steps_to_peak
    cosine = {"CosineDecayLR": {"initial_learning_rate": rate, "end_learning_rate": 0.0,
                                "total_iters": settings.steps - warmup}}  # fmt: skip
    if not warmup:
        return cosine
    line = {"LinearLR": {"initial_learning_rate": 0.0, "end_learning_rate": rate, "total_iters": warmup}}
    return {"SequentialLR": {"schedulers": [line, cosine]}}


def _precision(settings: Training, cerebras: Cerebras) -> dict:
    """CSX multiplies in cbfloat16, for which ModelZoo asks for dynamic loss scaling; its CPU backend in fp32."""
    csx = cerebras.target == "CSX"
    kind = {"fp16_type": "cbfloat16", "loss_scaling_factor": "dynamic"} if csx else {"fp16_type": "bfloat16"}
    return {"enabled": csx, "max_gradient_norm": settings.max_grad_norm, **kind}


def _loader(folder: Path, batch_size: int) -> dict:
    """The batches as they lie in the file: they are shuffled when they are written."""
    return {"data_processor": "GptHDF5MapDataProcessor", "data_dir": str(folder.resolve()), "batch_size": batch_size,
            "shuffle": False, "num_workers": 0}  # fmt: skip
