"""The ModelZoo backend: a training by Cerebras ModelZoo's own Trainer, on a CS-3 or on its CPU backend.

The user's checkout of ModelZoo and its python train, in a process of their own, from a masked .mdl checkpoint; what comes
back is the same adapter in Hugging Face's names and coordinates. Masks, batches, draws and schedule are the torch
backend's. No part of this has run on a CS-3: its CPU backend trains, and its configuration lowers for CSX.
"""

import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from sparseft.backends.appliance import KILLED
from sparseft.backends.modelzoo.data_files import write_batches
from sparseft.backends.modelzoo.export import CHECKPOINT
from sparseft.backends.modelzoo.log import TrainerLog, read_logs
from sparseft.backends.modelzoo.trainer_configuration import Places, trainer_configuration
from sparseft.checkpoints.checkpoint import BITS, BLOCK
from sparseft.checkpoints.conversion import converted
from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.mdl import MdlFile, MdlTensor
from sparseft.checkpoints.modelzoo_checkpoint import open_checkpoint
from sparseft.checkpoints.modelzoo_names import deinterleave
from sparseft.errors import InputError
from sparseft.language_model.batches import Example, encode, refuse_longer, shuffled
from sparseft.language_model.hardware import versions
from sparseft.language_model.loss import check_finite_evaluation
from sparseft.language_model.model import load_tokenizer
from sparseft.lora.adapter import write_adapter
from sparseft.lora.masked_lora import StructuredLoRALinear, kind_of, rows_and_columns
from sparseft.storage.atomic import atomic_file, write_json
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_json
from sparseft.study.config import Cerebras
from sparseft.study.digests import code_digest
from sparseft.study.grid import WAFER
from sparseft.training.job import TrainingJob
from sparseft.training.progress import Progress, check_finite

MODELZOO = "https://github.com/Cerebras/modelzoo"
SMOOTHED = 12  # steps until a rate of the log, smoothed, is free of the first one, which is no step's
DRIVER = Path(__file__).parents[4] / "workflow/scripts/run_modelzoo.py"


@dataclass(frozen=True)
class ModelZoo:
    """The user's checkout, and the python of its environment."""

    home: Path
    python: Path

    @classmethod
    def found(cls) -> "ModelZoo":
        """What MODELZOO_HOME and MODELZOO_PYTHON name. Raises InputError, which says how to get it, where it is not there."""
        named = os.environ.get("MODELZOO_HOME", "")
        home = Path(named or "/nowhere")
        python = Path(os.environ.get("MODELZOO_PYTHON") or home / ".venv/bin/python")
        get = f"git clone {MODELZOO}, install its requirements.txt into a .venv in it, and set MODELZOO_HOME to it"
        if not (home / "src/cerebras/modelzoo/trainer").is_dir():
            raise InputError(f"MODELZOO_HOME={named}: no checkout of ModelZoo", get)
        if not python.is_file():
            raise InputError(f"{python}: no such program", f"{get}, or MODELZOO_PYTHON to the python that has them")
        return cls(home.resolve(), python)

    @property
    def commit(self) -> str:
        """The checkout's commit, as git says; "unknown" where it says none."""
        command = ["git", "-C", str(self.home), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("git") else None
        return done.stdout.strip() if done and done.returncode == 0 else "unknown"

    def run(self, configuration: Path, *flags: str) -> None:
        """Run the driver, in a process that ends with this one; what it prints goes to stderr.

        Raises InputError where it fails."""
        paths = os.pathsep.join(map(str, (DRIVER.parents[2] / "lib", self.home / "src")))
        command = [self.python, DRIVER, configuration, *flags, "--end_with_stdin"]
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        told = None
        for line in (raw.decode(errors="replace") for raw in process.stdout):
            if line.startswith("error: "):
                told = line.removeprefix("error: ").strip()
            else:
                print(line, end="", file=sys.stderr, flush=True)
        code = process.wait()
        if code < 0:  # killed: what it left on the appliance is for who started this process to cancel
            sys.exit(KILLED - code)
        if code:
            what, _, mend = (told or f"ModelZoo's Trainer ended with code {code}; see what it printed").rpartition("; ")
            raise InputError(what, mend)


@dataclass(frozen=True)
class TrainerRun:
    """A run as ModelZoo's Trainer is given it: the job, the masked checkpoint, the examples as tokens, the run's folder."""

    job: TrainingJob
    cerebras: Cerebras
    checkpoint: Path
    data: dict[str, list[Example]]
    folder: Path

    @property
    def model_dir(self) -> Path:
        """The Trainer's own folder."""
        return self.folder / "modelzoo"

    def batches(self) -> dict[str, list[list[Example]]]:
        """The batches by split, in the order in which the Trainer reads them."""
        settings, size, validation = self.job.settings, self.job.evaluation_batch_size, self.data["validation"]
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
        """Write the Trainer's configuration; returns its path. `start`: the checkpoint to begin with; the masked one when left out."""
        places = Places(self.checkpoint, start or self.checkpoint, self.model_dir / "data", self.model_dir)
        content = trainer_configuration(self.job, self.cerebras, places)
        configuration.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(configuration) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False))
        return configuration

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """(step, path) of the Trainer's newest complete checkpoint; None without one.

        Raises InputError where that one is complete and cannot be read: it stays."""
        found = [(int(path.stem.split("_")[1]), path) for path in self.model_dir.glob("checkpoint_*.mdl")]
        for step, path in sorted(found, reverse=True):
            file = MdlFile(path)
            try:
                opened = file.file
            except InputError as error:  # truncated, or partly written
                print(f"{error.args[0]}: it is left aside", file=sys.stderr)
                continue
            with closing(opened):
                if file.tensors:
                    return step, path
        return None

    def finished(self) -> Path | None:
        """The checkpoint of the last step; None where it is not there."""
        last = self.last_checkpoint()
        return last[1] if last and last[0] == self.job.settings.steps else None


def trainer_run(job: TrainingJob, cerebras: Cerebras, exported: Path, folder: Path) -> TrainerRun:
    """The training of a job from `exported`, the folder that export_modelzoo.py wrote.

    Raises InputError where that is of another model or mask, or altered; for examples that are too long; for settings that
    cannot be had in the mode; and for a model whose LoRA layers ModelZoo does not make."""
    job.settings.check(job.mode, {layer.rpartition(".")[2] for layer in prunable_layers(job.checkpoint)})
    if "num_local_experts" in job.checkpoint.config:
        raise InputError(
            f"{job.checkpoint.folder}: ModelZoo puts no LoRA layers on stacked experts",
            "use backend: cerebras, or torch",
        )
    report = read_json(exported / "export.json", "write it with export_modelzoo.py --mask_path")
    if report.get("inputs") != {"model": job.checkpoint.digest, "mask": job.provenance["mask_sha256"]}:
        raise InputError(f"{exported}: of another model or mask", "write it again with export_modelzoo.py")
    if sha256(exported / CHECKPOINT) != report["outputs"][CHECKPOINT]:
        raise InputError(f"{exported / CHECKPOINT}: not as it was written", "write it again with export_modelzoo.py")
    tokenizer = load_tokenizer(job.checkpoint.folder)
    data = {split: encode(rows, job.task, tokenizer, sys.maxsize) for split, rows in job.rows.items()}
    lengths = [len(example.ids) for examples in data.values() for example in examples]
    longest = min(cerebras.sequence_length, job.checkpoint.config.get("max_position_embeddings", sys.maxsize))
    mend = "set cerebras.sequence_length to the longest's, or leave them out of the data"
    refuse_longer("training and validation examples", lengths, longest, mend)
    return TrainerRun(job, cerebras, exported / CHECKPOINT, data, folder)


def train(run: TrainerRun) -> dict:
    """Train the adapter and write it to the run's folder/adapter; returns train.json's measured content.

    A complete checkpoint that an earlier process left is gone on from. Raises InputError where there is no ModelZoo, and where
    its Trainer fails, or changed the frozen base."""
    modelzoo, configuration = ModelZoo.found(), run.folder / "trainer.yaml"
    _forget_others(run, modelzoo)
    run.write_batches()
    last = run.last_checkpoint()
    if not last:
        shutil.rmtree(run.model_dir / "cerebras_logs", ignore_errors=True)  # of a training that was written
        run.write(configuration)
    if not run.finished():
        start = run.write(run.model_dir / "resumed.yaml", last[1]) if last else configuration
        modelzoo.run(start, "--mode", "train")
    finished = run.finished()
    if not finished:
        raise InputError(f"{run.model_dir}: the last step's checkpoint is not there", "see what the Trainer printed")
    modelzoo.run(run.write(run.model_dir / "evaluation.yaml", finished), "--mode", "eval")
    check_frozen(MdlFile(run.checkpoint), MdlFile(finished))
    job, matrices = run.job, trained_factors(run, MdlFile(finished))
    write_adapter(
        run.folder / "adapter", matrices, job.settings, base=job.checkpoint.folder.name, sparseft=job.provenance
    )
    record = _record(run, matrices)
    record["versions"]["modelzoo"] = modelzoo.commit
    return record


def remove_states(folder: Path) -> None:
    """Remove what a written training needs no more: the Trainer's checkpoints, each with the whole base, and the batches."""
    for path in (folder / "modelzoo").glob("checkpoint_*.mdl"):
        path.unlink()
    shutil.rmtree(folder / "modelzoo/data", ignore_errors=True)


def check_frozen(before: MdlFile, after: MdlFile) -> None:
    """Raises InputError where the Trainer's checkpoint holds a base or masks other than those that it began with."""
    for key, tensor in before.tensors.items():
        other = after.tensors.get(key)
        if (
            other is None and key.endswith("_mask") and before.read(tensor).all()
        ):  # nothing is pruned: not declared sparse
            continue
        if other is None or not _equal(before, tensor, after, other):
            raise InputError(f"{after.path}: {key} is not what it was", "report this line: no adapter is written")


def trained_factors(run: TrainerRun, trained: MdlFile) -> dict[str, tuple[Tensor, Tensor]]:
    """A (r, in) and B (out, r) by layer as they act, fp32, in Hugging Face's names and order of rows."""
    job, exported, factors = run.job, open_checkpoint(run.checkpoint), {}
    for layer in prunable_layers(job.checkpoint):
        place = exported.places[f"{layer}.weight"]
        path = f"model.model.{place.key.removesuffix('.weight')}"
        if f"{path}.lora_A" not in trained.tensors:
            continue
        A, B = (_fp32(trained, f"{path}.lora_{name}") for name in "AB")
        if place.head_dim:
            B = deinterleave(B, place.head_dim)
        A, B = torch.from_numpy(A), torch.from_numpy(np.ascontiguousarray(B))
        kept = torch.from_numpy(job.mask.kept(layer))
        if kind_of(job.mode, kept) is StructuredLoRALinear:
            rows, columns = rows_and_columns(kept)
            A, B = A * columns, B * rows[:, None]
        factors[layer] = A, B
    return factors


def _record(run: TrainerRun, matrices: dict[str, tuple[Tensor, Tensor]]) -> dict:
    job, cerebras, logs = run.job, run.cerebras, read_logs(run.model_dir)
    on_csx = cerebras.target == WAFER
    progress, speed = _progress(run, [log for log in logs if log.losses])
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return progress.record(job.settings.batch_size, peak) | speed | {
        # By the schedule that the Trainer was given: its logs hold no learning rates.
        "updates": job.settings.steps - min(1, job.settings.steps_to_peak),
        "eval_loss": _eval_loss(run, logs[-1].evaluation),
        "backend": "modelzoo",
        "device": WAFER if on_csx else "CSX software backend on CPU",
        "processes": cerebras.num_csx if on_csx else 1,
        "cerebras": cerebras.model_dump(include=cerebras.DECIDING),
        "micro_batch_size": cerebras.csx_micro_batch_size if on_csx else job.settings.batch_size,
        "dtype": "cbfloat16" if on_csx else "float32",
        "trainable_parameters": sum(matrix.numel() for pair in matrices.values() for matrix in pair),
        "versions": read_json(run.model_dir / "versions.json") | {"sparseft": versions()["sparseft"]},
    }  # fmt: skip


def _progress(run: TrainerRun, logs: list[TrainerLog]) -> tuple[Progress, dict]:
    """The curve, with a step that was run again taken from its last run; the speed, by smoothed rates and over all steps.

    Raises InputError where a step is missing, its loss not finite, or another device's than the configuration's."""
    progress, steady, size, steps = Progress(), [], run.job.settings.batch_size, run.job.settings.steps
    device = "cpu" if run.cerebras.target == "CPU" else WAFER
    if odd := {log.device for log in logs} - {device}:
        raise InputError(f"{run.model_dir}: its logs are of {min(odd)}, not of {device}", "remove it, and train again")
    last = {step: log for log in logs for step in log.losses}
    if sorted(last) != list(range(1, steps + 1)):
        raise InputError(f"{run.model_dir}: {len(last)} of {steps} steps in its logs", "remove it, and train again")
    for step, examples in enumerate(run.batches()["train"], start=1):
        log, tokens = last[step], sum(len(example.ids) for example in examples)
        check_finite(step, log.losses[step], 0.0)
        progress.curve.append({"step": step, "loss": log.losses[step]})
        progress.seconds.append(size / log.rates[step])
        progress.tokens.append(tokens)
        if step - min(log.losses) >= SMOOTHED:
            steady.append((tokens, size / log.rates[step]))
    progress.resumed_after = [min(log.losses) - 1 for log in logs if min(log.losses) > 1]
    timed = [size / log.overall_rate for log in last.values() if log.overall_rate]
    if not timed:
        raise InputError(
            f"{run.model_dir}: no start of it took two steps, which a rate needs", "train more steps at once"
        )
    return progress, _speed(progress, steady, steps * statistics.fmean(timed), size)


def _speed(progress: Progress, steady: list[tuple[int, float]], total: float, size: int) -> dict:
    """Of `total` seconds; medians over `steady`, (tokens, seconds) of the steps whose rates hold no first one any more, or of
    the whole where these are few."""
    samples, tokens = size * len(progress.tokens), sum(progress.tokens)
    overall = {"samples_per_second_overall": samples / total, "tokens_per_second_overall": tokens / total}
    medians = {"samples_per_second": samples / total, "tokens_per_second": tokens / total}
    if len(steady) > SMOOTHED:
        medians["samples_per_second"] = size / statistics.median(seconds for _, seconds in steady)
        medians["tokens_per_second"] = statistics.median(number / seconds for number, seconds in steady)
    return medians | overall | {"train_seconds": total}


def _eval_loss(run: TrainerRun, losses: list[float]) -> float:
    """The mean over all answer tokens, nats: the Trainer's own is a mean over batches, whatever their tokens."""
    tokens = [
        sum(len(example.ids) - example.answer_start for example in batch) for batch in run.batches()["validation"]
    ]
    if len(losses) != len(tokens):
        raise InputError(f"{run.model_dir}: {len(losses)} of {len(tokens)} batches evaluated", "train again")
    loss = sum(loss * number for loss, number in zip(losses, tokens, strict=True)) / sum(tokens)
    check_finite_evaluation(loss)
    return loss


def _forget_others(run: TrainerRun, modelzoo: ModelZoo) -> None:
    """Remove what another training left in the Trainer's folder, which would go on from it."""
    driver, deciding = (
        code_digest(DRIVER, DRIVER.parents[2] / "lib"),
        run.cerebras.model_dump(include=run.cerebras.DECIDING),
    )
    where = [deciding, driver, modelzoo.commit, str(modelzoo.python), torch.get_num_threads()]
    identity, path = run.job.identity(run.data, Path(__file__), where), run.model_dir / "identity.json"
    if path.exists() and read_json(path).get("identity") == identity:
        return
    if run.model_dir.exists():
        print(
            f"{run.model_dir}: of other code, inputs or settings: the training starts from its beginning",
            file=sys.stderr,
        )
        shutil.rmtree(run.model_dir)
    write_json(path, {"identity": identity})


def _fp32(file: MdlFile, key: str) -> np.ndarray:
    tensor = file.tensors[key]
    bits = file.read(tensor)
    return converted(bits.reshape(-1), tensor.dtype, "F32").view(np.float32).reshape(tensor.shape)


def _equal(before: MdlFile, tensor: MdlTensor, after: MdlFile, other: MdlTensor) -> bool:
    """Whether two tensors hold the same values, in whatever dtypes: a block of rows at a time."""
    if tensor.shape != other.shape:
        return False
    step = max(1, BLOCK // math.prod(tensor.shape[1:]))
    for start in range(0, tensor.shape[0], step):
        rows = slice(start, start + step)
        one, two = (file.read(t, rows) for file, t in ((before, tensor), (after, other)))
        if tensor.dtype in BITS and other.dtype in BITS:
            one, two = (converted(bits.reshape(-1), t.dtype, "F32") for bits, t in ((one, tensor), (two, other)))
        if not np.array_equal(one, two):
            return False
    return True
