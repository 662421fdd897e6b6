"""A run as ModelZoo's Trainer gets it: the masked checkpoint, the batches as files, and the configuration."""

import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import yaml

from sparseft.backends.fixed_shapes import IGNORED, encoded_data, fixed_batch
from sparseft.backends.modelzoo.export import CHECKPOINT
from sparseft.backends.modelzoo.trainer_configuration import trainer_configuration
from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.mdl import MdlFile, Target
from sparseft.errors import InputError
from sparseft.language_model.batches import Example, shuffled
from sparseft.language_model.model import load_tokenizer
from sparseft.storage.atomic import atomic_file
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_json
from sparseft.study.backends import MODELZOO
from sparseft.study.backends.cerebras import CerebrasJob
from sparseft.training.job import TrainingJob

FILE = "batches.h5"


@dataclass(frozen=True)
class TrainerRun:
    """Hold a job, its masked checkpoint, its examples as tokens by split, and the folder of the run."""

    job: TrainingJob
    cerebras: CerebrasJob
    checkpoint: Path
    data: dict[str, list[Example]]
    folder: Path

    @property
    def model_dir(self) -> Path:
        """Return the Trainer's own folder."""
        return self.folder / "modelzoo"

    def batches(self) -> dict[str, list[list[Example]]]:
        """Return the batches by split, in the order in which the Trainer reads them."""
        settings = self.job.settings
        size = self.job.evaluation_batch_size
        validation = self.data["validation"]
        return {
            "train": list(islice(shuffled(self.data["train"], settings, self.job.seed), settings.steps)),
            "validation": [validation[start : start + size] for start in range(0, len(validation), size)],
        }

    def write_batches(self) -> None:
        """Write the batches of both splits."""
        sizes = {"train": self.job.settings.batch_size, "validation": self.job.evaluation_batch_size}
        for split, batches in self.batches().items():
            write_batches(self.model_dir / "data" / split, batches, self.cerebras.sequence_length, sizes[split])

    def write(self, configuration: Path, start: Path | None = None) -> Path:
        """Write the Trainer's configuration and return its path. It starts from `start`, or from the masked checkpoint."""
        start = start or self.checkpoint
        content = trainer_configuration(self.job, self.cerebras, self.checkpoint, start, self.model_dir)
        configuration.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(configuration) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False))
        return configuration

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """Return the step and the path of the Trainer's newest complete checkpoint; None if there is none."""
        by_step = [(int(path.stem.split("_")[1]), path) for path in self.model_dir.glob("checkpoint_*.mdl")]
        for step, path in sorted(by_step, reverse=True):
            try:
                with closing(MdlFile(path).file):
                    return step, path
            except InputError as error:
                # The file is truncated, or was partly written.
                print(f"{error.args[0]}: it is not used", file=sys.stderr)
        return None


def trainer_run(job: TrainingJob, cerebras: CerebrasJob, exported: Path, folder: Path) -> TrainerRun:
    """Return the run of a job that starts from `exported`, a folder that export_modelzoo.py wrote.

    Raises InputError if the folder is of another model or mask, or was altered; if an example is too long; if the mode does
    not allow the settings; or if ModelZoo does not train the architecture."""
    MODELZOO.check_architecture(job.checkpoint.architecture, job.checkpoint.folder)
    job.settings.check(job.mode, {layer.rpartition(".")[2] for layer in prunable_layers(job.checkpoint)})
    report = read_json(exported / "export.json", "write it with export_modelzoo.py --mask_path")
    if report.get("inputs") != {"model": job.checkpoint.digest, "mask": job.provenance["mask_sha256"]}:
        raise InputError(f"{exported}: of another model or mask", "write it again with export_modelzoo.py")
    if sha256(exported / CHECKPOINT) != report["outputs"][CHECKPOINT]:
        raise InputError(f"{exported / CHECKPOINT}: not as it was written", "write it again with export_modelzoo.py")
    length = min(cerebras.sequence_length, job.checkpoint.config.get("max_position_embeddings", sys.maxsize))
    data = encoded_data(job, load_tokenizer(job.checkpoint.folder), length)
    return TrainerRun(job, cerebras, exported / CHECKPOINT, data, folder)


def write_batches(folder: Path, batches: Iterable[list[Example]], length: int, size: int) -> None:
    """Write `folder`/batches.h5, with `data`, int32 (N, 3, T), in the order in which the Trainer reads the rows.

        data[:, 0]  token ids, padded on the right with 0
        data[:, 1]  loss mask, which ModelZoo calls attention_mask: 1 if the token that follows is the answer's, else 0
        data[:, 2]  labels: the token that follows, or 0 if the loss mask is 0

    A batch has `size` rows of T = `length` tokens. No example may be longer. The rows that fill up the last batch of an
    evaluation are only padding. Source: ModelZoo's Release_2.10.0, src/cerebras/modelzoo/,
    data/nlp/gpt/GptHDF5MapDataProcessor.py and losses/GPTLMHeadModelLoss.py."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / FILE) as temporary, Target(temporary, "w+b") as target:
        try:
            with h5py.File(target, "w") as file:
                options = {"chunks": (1, 3, length), "maxshape": (None, 3, length), "compression": "gzip"}
                data = file.create_dataset("data", (0, 3, length), "int32", **options)
                for batch in batches:
                    data.resize(len(data) + size, axis=0)
                    tensors = fixed_batch(batch, length, size)
                    labels = tensors["labels"].numpy()
                    answers = labels != IGNORED
                    rows = np.stack([tensors["ids"].numpy(), answers, np.where(answers, labels, 0)], axis=1)
                    data[-size:] = rows.astype(np.int32)
                    target.check()
                file.attrs["n_examples"] = len(data)
        finally:
            target.check()
