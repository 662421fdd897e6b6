"""The backend cerebras: train an adapter, or compile its program in advance.

The parts are in package.py (cerebras-pytorch itself), trainer.py (the training), streams.py (its batches), optimizer.py,
plain_lora.py (its layers), states.py (its saved states) and measurement.py (its speed).
"""

from pathlib import Path

import torch

from sparseft.backends.cerebras.package import appliance_needed, open_backend, package_versions, program_digest
from sparseft.backends.cerebras.trainer import Trainer
from sparseft.language_model.hardware import peak_memory
from sparseft.lora.adapter import write_adapter
from sparseft.study.backends.cerebras import CEREBRAS, CerebrasJob
from sparseft.study.grid import WAFER
from sparseft.training.job import TrainingJob


def train(job: TrainingJob, cerebras: CerebrasJob, folder: Path) -> dict:
    """Train an adapter, write it to `folder`/adapter and return the measured part of train.json.

    A training of which `folder` has a complete state_*.mdl continues from it. Raises InputError if a CS-3 is the target
    and this machine knows no appliance."""
    trainer = Trainer(job, cerebras, open_backend(cerebras, folder), folder)
    with appliance_needed():
        progress = trainer.fit()
        eval_loss = trainer.eval_loss()
    factors = trainer.trained_factors()
    write_adapter(folder / "adapter", factors, job.settings, base=job.checkpoint.folder.name, sparseft=job.provenance)
    return progress.record(job.settings.batch_size, peak_memory(torch.device("cpu"))) | {
        "updates": progress.updates,
        "eval_loss": eval_loss,
        **device_record(trainer),
        "dtype": trainer.dtype,
        "trainable_parameters": sum(matrix.numel() for pair in factors.values() for matrix in pair),
    }


def lower(job: TrainingJob, cerebras: CerebrasJob, folder: Path, *, compile_only: bool, fill: bool = False) -> dict:
    """Lower the steps of a training, and of its evaluation if it has one, and return the content of compile.json.

    With `compile_only` the appliance compiles them too. Without it no appliance is needed, because the front end knows
    which operations the compiler supports. No step is executed. Raises InputError if this fails."""
    backend = open_backend(cerebras, folder, compile_only=compile_only, validate_only=not compile_only)
    trainer = Trainer(job, cerebras, backend, folder, fill=fill)
    with appliance_needed():
        trainer.run(0, job.settings.steps)
        if "validation" in trainer.data:
            trainer.eval_loss()
    return {
        "run_id": job.provenance["run_id"],
        "compile_only": compile_only,
        "compile_hash": program_digest(trainer.graph),
        "cerebras": cerebras.model_dump(),
        "versions": package_versions(),
    }


def device_record(trainer: Trainer) -> dict:
    """Return the part of a record that says where and with which program its numbers were made."""
    cerebras = trainer.cerebras
    on_csx = trainer.backend.backend_type.is_csx
    return {
        "backend": CEREBRAS.name,
        "device": WAFER if on_csx else "CSX software backend on CPU",
        "processes": cerebras.num_csx if on_csx else 1,
        "micro_batch_size": cerebras.csx_micro_batch_size if on_csx else trainer.settings.batch_size,
        "cerebras": cerebras.model_dump(include=cerebras.DECIDING),
        "compile_hash": program_digest(trainer.graph) if on_csx and trainer.graph else None,
        "versions": package_versions(),
    }
