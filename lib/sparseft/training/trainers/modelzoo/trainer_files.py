"""Write the files that ModelZoo's Trainer gets for a run: its configuration and its batches.

The Trainer refuses other keys than these: github.com/Cerebras/modelzoo, Release_2.10.0, src/cerebras/modelzoo/trainer/.
The callbacks MaskedLora and FrozenBaseSparsity are this project's (callbacks.py). `cszoo` does not know them, but
workflow/scripts/run_modelzoo.py does.
"""

import shutil
import sys
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import yaml

from sparseft.axes.modes import get_mode
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.mdl import MdlFile, hdf5_file
from sparseft.models.checkpoints.modelzoo_checkpoint import ModelZooCheckpoint, Place
from sparseft.models.language_model.batches import Example
from sparseft.models.language_model.model import load_tokenizer
from sparseft.storage.atomic import atomic_file
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_json
from sparseft.training.job import TrainingJob, trained_names
from sparseft.training.trainers.backends import MODELZOO
from sparseft.training.trainers.backends.cerebras import DECAYS, CerebrasJob
from sparseft.training.trainers.fixed_shapes import IGNORED, encoded_data, fixed_batch
from sparseft.training.trainers.modelzoo.export import CHECKPOINT, RECORD, model_section

FILE = "batches.h5"
# ModelZoo adds eps before the bias of the second moment is corrected, and torch adds it after that.
ADAMW = {"betas": [0.9, 0.999], "eps": 1e-8, "correct_bias": True}


@dataclass(frozen=True)
class TrainerRun:
    """Hold a job, its masked checkpoint, its examples as tokens, and the folder of the run."""

    job: TrainingJob
    cerebras: CerebrasJob
    checkpoint: Path
    examples: list[Example]
    folder: Path

    @property
    def model_dir(self) -> Path:
        """Return the Trainer's own folder."""
        return self.folder / "modelzoo"

    @property
    def data(self) -> Path:
        """Return the folder of the batches."""
        return self.model_dir / "data"

    @cached_property
    def places(self) -> dict[str, Place]:
        """Return the place of each tensor in ModelZoo's model, by its name on disk."""
        return ModelZooCheckpoint(self.checkpoint.parent, self.checkpoint).places

    @cached_property
    def trained_keys(self) -> dict[str, str]:
        """Return the keys in the Trainer's model of the weights that it trains, by name on disk; empty if it trains
        adapters."""
        job = self.job
        names = trained_names(job.checkpoint, job.mask, job.settings) if get_mode(job.mode).is_full else []
        return {name: f"model.{self.places[name].key}" for name in names}

    def batches(self) -> list[list[Example]]:
        """Return the batches in the order in which the Trainer reads them."""
        settings = self.job.settings
        return list(islice(settings.batches(self.examples, self.job.seed), settings.steps))

    def write(self, path: Path, start: Path | None = None) -> Path:
        """Write the batches and the Trainer's configuration, and return the path of the configuration. The Trainer
        starts from `start`, or from the masked checkpoint."""
        write_batches(self.data, self.batches(), self.cerebras.sequence_length)
        with atomic_file(path) as temporary:
            temporary.write_text(yaml.safe_dump(configuration(self, start or self.checkpoint), sort_keys=False))
        return path

    def last_checkpoint(self) -> tuple[int, Path]:
        """Return the step and the path of the Trainer's newest complete checkpoint, or 0 and the masked one."""
        by_step = [(int(path.stem.split("_")[1]), path) for path in self.model_dir.glob("checkpoint_*.mdl")]
        for step, path in sorted(by_step, reverse=True):
            try:
                with closing(MdlFile(path).file):
                    return step, path
            except InputError as error:
                # The file is truncated, or was partly written.
                print(f"{error.args[0]}: it is not used", file=sys.stderr)
        return 0, self.checkpoint

    def remove_states(self) -> None:
        """Remove the checkpoints and batches after the adapter was written. Each checkpoint holds the whole base."""
        for path in self.model_dir.glob("checkpoint_*.mdl"):
            path.unlink()
        shutil.rmtree(self.data, ignore_errors=True)


def trainer_run(job: TrainingJob, cerebras: CerebrasJob, exported: Path, folder: Path) -> TrainerRun:
    """Return the run of a job that starts from `exported`, a folder that export_modelzoo.py wrote.

    Raises InputError if the folder is of another model or mask, or was altered; if an example is too long; or if
    ModelZoo does not train the architecture."""
    MODELZOO.check_architecture(job.checkpoint.architecture, job.checkpoint.folder)
    report = read_json(exported / RECORD, "write it with export_modelzoo.py --mask_path")
    inputs = {"model": job.checkpoint.digest, "mask": job.provenance["mask_sha256"]}
    if report.get("inputs") != inputs or sha256(exported / CHECKPOINT) != report["outputs"][CHECKPOINT]:
        raise InputError(f"{exported}: of another model or mask, or altered", "write it again with export_modelzoo.py")
    length = min(cerebras.sequence_length, job.checkpoint.config.get("max_position_embeddings", sys.maxsize))
    examples = encoded_data(job, load_tokenizer(job.checkpoint.folder), length)["train"]
    return TrainerRun(job, cerebras, exported / CHECKPOINT, examples, folder)


def write_batches(folder: Path, batches: list[list[Example]], length: int) -> None:
    """Write `folder`/batches.h5, with `data`, int32 (N, 3, T), in the order in which the Trainer reads the rows.

        data[:, 0]  token ids, padded on the right with 0
        data[:, 1]  loss mask, which ModelZoo calls attention_mask: 1 if the token that follows is the answer's, else 0
        data[:, 2]  labels: the token that follows, or 0 if the loss mask is 0

    A row has T = `length` tokens. No example may be longer, and all batches have equally many. Source: ModelZoo's
    Release_2.10.0, src/cerebras/modelzoo/, data/nlp/gpt/GptHDF5MapDataProcessor.py and losses/GPTLMHeadModelLoss.py."""
    folder.mkdir(parents=True, exist_ok=True)
    with hdf5_file(folder / FILE) as (file, target):
        size = len(batches[0])
        shape = (len(batches) * size, 3, length)
        data = file.create_dataset("data", shape, "int32", chunks=(1, 3, length), compression="gzip")
        for number, batch in enumerate(batches):
            tensors = fixed_batch(batch, length, size)
            labels = tensors["labels"].numpy()
            answers = labels != IGNORED
            rows = np.stack([tensors["ids"].numpy(), answers, np.where(answers, labels, 0)], axis=1)
            data[number * size : (number + 1) * size] = rows
            target.check()
        file.attrs["n_examples"] = len(data)


def _adapter_callbacks(run: TrainerRun) -> list[dict]:
    """Return the callbacks that train adapters on the frozen base."""
    job, settings = run.job, run.job.settings
    lora = {
        "r": settings.lora_r,
        "alpha": settings.lora_alpha,
        "dropout": settings.lora_dropout,
        "merge_weights": False,
        "target_modules": ["TransformerDecoderLayer", "Linear"],
    }
    masks = {"checkpoint": str(run.checkpoint.resolve())}
    return [
        {"Lora": {"lora_params": lora}},
        {"MaskedLora": {**masks, "mode": job.mode, "seed": job.seed, "targets": settings.lora_targets}},
        {"FrozenBaseSparsity": masks},
    ]


def _weight_callbacks(run: TrainerRun) -> tuple[list[dict], list[dict]]:
    """Return the callbacks of a training of weights, and ModelZoo's own `sparsity:`, with a static mask per layer.

    The Trainer takes the masks of the checkpoint, and `init_method` only makes their names. A layer without a zero
    stays dense."""
    job, keys = run.job, run.trained_keys
    static = {"algorithm": "static", "init_method": "from_zeros"}
    sparsity = [
        static | {"sparsity": share, "param_filter": [keys[f"{layer}.weight"]]}
        for layer in job.enforced
        if (share := 1 - float(job.mask.kept(layer).mean()))
    ]
    return [{"TrainedWeights": {"names": [*keys.values()]}}, *[{"LogSparsity": {}}] * bool(sparsity)], sparsity


def configuration(run: TrainerRun, start: Path) -> dict:
    """Return the Trainer's configuration. The Trainer starts from the checkpoint `start`.

    Raises InputError as `model_section` does."""
    job, settings, cerebras = run.job, run.job.settings, run.cerebras
    warmup, peak = settings.steps_to_peak, settings.learning_rate
    # As transformers' get_cosine_schedule_with_warmup: a line from 0, then a cosine to 0, or a line to 0.
    line = {"initial_learning_rate": 0.0, "end_learning_rate": peak, "total_iters": warmup}
    decay = {"initial_learning_rate": peak, "end_learning_rate": 0.0, "total_iters": settings.steps - warmup}
    schedulers = [{"LinearLR": line}, {DECAYS[settings.lr_scheduler_type]: decay}]
    # A CS-3 computes in cbfloat16, for which ModelZoo needs dynamic loss scaling. The CPU backend computes in fp32.
    precision = {"fp16_type": "bfloat16"}
    backend: dict = {"backend_type": "CPU"}
    if cerebras.on_csx:
        precision = {"fp16_type": "cbfloat16", "loss_scaling_factor": "dynamic"}
        backend = {"backend_type": "CSX", "compile_dir": cerebras.compile_dir, "cluster_config": cerebras.cluster}
    callbacks, sparsity = _weight_callbacks(run) if run.trained_keys else (_adapter_callbacks(run), [])
    loader = {
        "data_processor": "GptHDF5MapDataProcessor",
        "data_dir": str(run.data.resolve()),
        "batch_size": settings.batch_size,
        # They were shuffled before they were written.
        "shuffle": False,
        "num_workers": 0,
    }
    return {
        "trainer": {
            "init": {
                "backend": backend,
                "model_dir": str(run.model_dir.resolve()),
                "seed": job.seed,
                "model": model_section(job.checkpoint.folder) | {"compute_eval_metrics": False},
                "optimizer": {"AdamW": ADAMW | {"weight_decay": settings.weight_decay}},
                "schedulers": [{"SequentialLR": {"schedulers": schedulers}} if warmup else schedulers[1]],
                "precision": {"enabled": cerebras.on_csx, "max_gradient_norm": settings.max_grad_norm, **precision},
                "loop": {"max_steps": settings.steps},
                "checkpoint": {"steps": settings.save_every or settings.steps},
                "logging": {"log_steps": 1},
                **({"sparsity": sparsity} if sparsity else {}),
                # In the order in which they run.
                "callbacks": [
                    {"ScopedTrainFlags": {"csx.performance.micro_batch_size": cerebras.csx_micro_batch_size}},
                    *callbacks,
                    # Each checkpoint holds the whole base.
                    {"KeepNCheckpoints": {"n": 1}},
                ],
            },
            "fit": {"ckpt_path": str(start.resolve()), "train_dataloader": loader},
        }
    }
