"""A run as ModelZoo's Trainer gets it: the masked checkpoint, the batches as files, and the configuration."""

import sys
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml

from sparseft.backends.modelzoo.data_files import write_batches
from sparseft.backends.modelzoo.export import CHECKPOINT
from sparseft.backends.modelzoo.trainer_configuration import trainer_configuration
from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.mdl import MdlFile
from sparseft.errors import InputError
from sparseft.language_model.batches import Example, encode, refuse_longer, shuffled
from sparseft.language_model.model import load_tokenizer
from sparseft.storage.atomic import atomic_file
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_json
from sparseft.study.backends import MODELZOO
from sparseft.study.backends.cerebras import CerebrasJob
from sparseft.training.job import TrainingJob


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
    tokenizer = load_tokenizer(job.checkpoint.folder)
    data = {split: encode(rows, job.task, tokenizer, sys.maxsize) for split, rows in job.rows.items()}
    refuse_longer(
        "training and validation examples",
        [len(example.ids) for examples in data.values() for example in examples],
        min(cerebras.sequence_length, job.checkpoint.config.get("max_position_embeddings", sys.maxsize)),
        "set cerebras.sequence_length to the longest's, or leave them out of the data",
    )
    return TrainerRun(job, cerebras, exported / CHECKPOINT, data, folder)
