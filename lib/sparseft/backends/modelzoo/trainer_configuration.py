"""The configuration that ModelZoo's Trainer gets for a run, from the settings of the study.

The Trainer refuses other keys: github.com/Cerebras/modelzoo, Release_2.10.0, src/cerebras/modelzoo/trainer/. The callbacks
MaskedLora, FrozenBaseSparsity and LastCheckpoint are this project's (callbacks.py). `cszoo` does not know them, but
workflow/scripts/run_modelzoo.py does.
"""

from dataclasses import dataclass
from pathlib import Path

from sparseft.backends.modelzoo.model_section import model_section
from sparseft.study.backends.cerebras import CerebrasJob
from sparseft.study.config import Training
from sparseft.training.job import TrainingJob

# Of AdamW. ModelZoo adds it before the bias of the second moment is corrected, and torch adds it after that.
EPS = 1e-8
CLUSTER_KEYS = ("num_csx", "job_labels", "job_priority", "job_time_sec", "mount_dirs", "python_paths")


@dataclass(frozen=True)
class Places:
    """Name the files of a run: the masked checkpoint, the one to start from, the batches, the Trainer's own folder."""

    checkpoint: Path
    start: Path
    batches: Path
    model_dir: Path


def trainer_configuration(job: TrainingJob, cerebras: CerebrasJob, places: Places) -> dict:
    """Return the configuration of a run. Raises InputError as `model_section` does."""
    settings = job.settings
    start = str(places.start.resolve())
    init = {
        "backend": _backend(cerebras),
        "model_dir": str(places.model_dir.resolve()),
        "seed": job.seed,
        "model": model_section(job.checkpoint.folder) | {"compute_eval_metrics": False},
        "optimizer": {"AdamW": _adamw(settings)},
        "schedulers": [_schedule(settings)],
        "precision": _precision(settings, cerebras),
        "loop": {"max_steps": settings.steps},
        "checkpoint": {"steps": settings.save_every or settings.steps},
        "logging": {"log_steps": 1},
        "callbacks": _callbacks(job, cerebras, places),
    }
    train = _loader(places.batches / "train", settings.batch_size)
    validation = _loader(places.batches / "validation", job.evaluation_batch_size)
    return {
        "trainer": {
            "init": init,
            "fit": {"ckpt_path": start, "train_dataloader": train},
            "validate": {"ckpt_path": start, "val_dataloader": validation},
        }
    }


def _callbacks(job: TrainingJob, cerebras: CerebrasJob, places: Places) -> list[dict]:
    """Return the callbacks in the order in which they run."""
    settings = job.settings
    checkpoint = str(places.checkpoint.resolve())
    flags = {"csx.performance.micro_batch_size": cerebras.csx_micro_batch_size}
    lora = {
        "r": settings.lora_r,
        "alpha": settings.lora_alpha,
        "dropout": settings.lora_dropout,
        "merge_weights": False,
        "target_modules": ["TransformerDecoderLayer", "Linear"],
    }
    masked_lora = {
        "checkpoint": checkpoint,
        "mode": job.mode,
        "seed": job.seed,
        "targets": settings.lora_targets,
        "gradient": settings.gradient,
    }
    return [
        {"ScopedTrainFlags": flags},
        {"ScopedValidateFlags": dict(flags)},
        {"Lora": {"lora_params": lora}},
        {"MaskedLora": masked_lora},
        {"FrozenBaseSparsity": {"checkpoint": checkpoint}},
        {"LastCheckpoint": {}},
    ]


def _backend(cerebras: CerebrasJob) -> dict:
    """Return where the Trainer computes."""
    if not cerebras.on_csx:
        return {"backend_type": "CPU"}
    cluster = {name: getattr(cerebras, name) for name in CLUSTER_KEYS}
    return {"backend_type": "CSX", "compile_dir": cerebras.compile_dir, "cluster_config": cluster}


def _adamw(settings: Training) -> dict:
    """Return the settings of AdamW, without its learning rate."""
    return {"betas": [0.9, 0.999], "eps": EPS, "weight_decay": settings.weight_decay, "correct_bias": True}


def _schedule(settings: Training) -> dict:
    """Return the schedule of transformers' get_cosine_schedule_with_warmup: a line from 0, then a cosine to 0."""
    rate = settings.learning_rate
    warmup = settings.steps_to_peak
    cosine = {
        "CosineDecayLR": {
            "initial_learning_rate": rate,
            "end_learning_rate": 0.0,
            "total_iters": settings.steps - warmup,
        }
    }
    if not warmup:
        return cosine
    line = {"LinearLR": {"initial_learning_rate": 0.0, "end_learning_rate": rate, "total_iters": warmup}}
    return {"SequentialLR": {"schedulers": [line, cosine]}}


def _precision(settings: Training, cerebras: CerebrasJob) -> dict:
    """Return the precision: cbfloat16 on a CS-3, where ModelZoo needs dynamic loss scaling, and fp32 on its CPU backend."""
    kind = {"fp16_type": "bfloat16"}
    if cerebras.on_csx:
        kind = {"fp16_type": "cbfloat16", "loss_scaling_factor": "dynamic"}
    return {"enabled": cerebras.on_csx, "max_gradient_norm": settings.max_grad_norm, **kind}


def _loader(folder: Path, batch_size: int) -> dict:
    """Return the loader of a file of batches. It reads them in order, because they were shuffled before they were written."""
    return {
        "data_processor": "GptHDF5MapDataProcessor",
        "data_dir": str(folder.resolve()),
        "batch_size": batch_size,
        "shuffle": False,
        "num_workers": 0,
    }
