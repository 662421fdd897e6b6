"""The configuration that ModelZoo's Trainer gets for a run, from the settings of the study.

The Trainer refuses other keys: github.com/Cerebras/modelzoo, Release_2.10.0, src/cerebras/modelzoo/trainer/. The callbacks
MaskedLora, FrozenBaseSparsity and LastCheckpoint are this project's (callbacks.py). `cszoo` does not know them, but
workflow/scripts/run_modelzoo.py does.
"""

from pathlib import Path

from sparseft.backends.modelzoo.model_section import model_section
from sparseft.study.backends.cerebras import CerebrasJob
from sparseft.training.job import TrainingJob

# Of AdamW. ModelZoo adds it before the bias of the second moment is corrected, and torch adds it after that.
EPS = 1e-8
CLUSTER_KEYS = ("num_csx", "job_labels", "job_priority", "job_time_sec", "mount_dirs", "python_paths")


def trainer_configuration(
    job: TrainingJob, cerebras: CerebrasJob, checkpoint: Path, start: Path, model_dir: Path
) -> dict:
    """Return the configuration of a run. Raises InputError as `model_section` does.

    checkpoint: the masked .mdl file
    start: the checkpoint that the Trainer starts from
    model_dir: the Trainer's own folder, with the batches in data/"""
    settings = job.settings
    warmup = settings.steps_to_peak
    # As transformers' get_cosine_schedule_with_warmup: a line from 0, then a cosine to 0.
    rate = {"initial_learning_rate": settings.learning_rate, "end_learning_rate": 0.0}
    cosine = {"CosineDecayLR": {**rate, "total_iters": settings.steps - warmup}}
    line = {"initial_learning_rate": 0.0, "end_learning_rate": settings.learning_rate, "total_iters": warmup}
    # A CS-3 computes in cbfloat16, for which ModelZoo needs dynamic loss scaling. The CPU backend computes in fp32.
    precision = {"fp16_type": "bfloat16"}
    backend = {"backend_type": "CPU"}
    if cerebras.on_csx:
        precision = {"fp16_type": "cbfloat16", "loss_scaling_factor": "dynamic"}
        cluster = {name: getattr(cerebras, name) for name in CLUSTER_KEYS}
        backend = {"backend_type": "CSX", "compile_dir": cerebras.compile_dir, "cluster_config": cluster}
    adamw = {"betas": [0.9, 0.999], "eps": EPS, "weight_decay": settings.weight_decay, "correct_bias": True}
    init = {
        "backend": backend,
        "model_dir": str(model_dir.resolve()),
        "seed": job.seed,
        "model": model_section(job.checkpoint.folder) | {"compute_eval_metrics": False},
        "optimizer": {"AdamW": adamw},
        "schedulers": [{"SequentialLR": {"schedulers": [{"LinearLR": line}, cosine]}} if warmup else cosine],
        "precision": {"enabled": cerebras.on_csx, "max_gradient_norm": settings.max_grad_norm, **precision},
        "loop": {"max_steps": settings.steps},
        "checkpoint": {"steps": settings.save_every or settings.steps},
        "logging": {"log_steps": 1},
        "callbacks": _callbacks(job, cerebras, str(checkpoint.resolve())),
    }
    train = _loader(model_dir / "data/train", settings.batch_size)
    validation = _loader(model_dir / "data/validation", job.evaluation_batch_size)
    return {
        "trainer": {
            "init": init,
            "fit": {"ckpt_path": str(start.resolve()), "train_dataloader": train},
            "validate": {"ckpt_path": str(start.resolve()), "val_dataloader": validation},
        }
    }


def _callbacks(job: TrainingJob, cerebras: CerebrasJob, checkpoint: str) -> list[dict]:
    """Return the callbacks in the order in which they run."""
    settings = job.settings
    micro_batch = {"csx.performance.micro_batch_size": cerebras.csx_micro_batch_size}
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
        {"ScopedTrainFlags": micro_batch},
        {"ScopedValidateFlags": dict(micro_batch)},
        {"Lora": {"lora_params": lora}},
        {"MaskedLora": masked_lora},
        {"FrozenBaseSparsity": {"checkpoint": checkpoint}},
        {"LastCheckpoint": {}},
    ]


def _loader(folder: Path, batch_size: int) -> dict:
    """Return the loader of a file of batches. It reads them in order, because they were shuffled before they were written."""
    return {
        "data_processor": "GptHDF5MapDataProcessor",
        "data_dir": str(folder.resolve()),
        "batch_size": batch_size,
        "shuffle": False,
        "num_workers": 0,
    }
