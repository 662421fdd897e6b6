"""Print the sha256 of every mask's content, adapter and merged model of a tiny study, to compare two versions of the project.

    python tests/bits.py --root . --output new.json
    git worktree add ../old REVISION && python tests/bits.py --root ../old --output old.json
    diff old.json new.json

The study has tiny LLaMA, Mistral and Mixtral models, every method of the old version, three sparsities and all modes. Each
job is a script of the project under --root, run in a fork of this process, which imports torch only once.
"""

import argparse
import hashlib
import json
import os
import runpy
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

METHODS = ("unstructured structured semistructured random unstructured_gradient unstructured_taylor unstructured_wanda"
           " structured_gradient structured_taylor semistructured_gradient semistructured_taylor"
           " semistructured_wanda").split()  # fmt: skip
SCRIPTS = ("prepare_model.py", "prepare_task.py", "compute_masks.py", "train.py", "merge.py")
PERCENTS = (25, 50, 75)  # each is N:4
MODES = ("no_finetune", "sparse_to_dense", "sparse_to_sparse")
TRAINING = {"steps": 3, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 0.01, "save_every": 0}


def call(root: Path, script: str, *arguments: object, **flags: object) -> None:
    """Run a script of the project in a fork, in the current folder. End this program if the script fails."""
    child = os.fork()
    if child == 0:
        words = [str(word) for name, value in flags.items() for word in (f"--{name}", *_values(value))]
        sys.argv = [str(root / "workflow/scripts" / script), *map(str, arguments), *words]
        with open("log", "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        code = 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{script} failed:\n{Path('log').read_text()[-2000:]}")


def _values(value: object) -> list:
    return value if isinstance(value, list) else [value]


def make(root: Path, model: str) -> Iterator[tuple[str, str]]:
    """Make the study of one model in the current folder. Yield (file, sha256) of each file that must stay the same."""
    call(root, "prepare_model.py", source=f"path:sources/{model}", output_dir=f"models/{model}")
    masks = Path("masks", model)
    common = {"model_path": f"models/{model}", "threads": 1}
    call(root, "compute_masks.py", **common, output_dir=masks, method="dense", sparsity="0")
    calibration = {"task": "boolq_mini", "data_dir": "data", "calibration_examples": 4}
    fractions = [f"0.{percent}" for percent in PERCENTS]
    call(root, "compute_masks.py", **common, **calibration, output_dir=masks, method=METHODS, sparsity=fractions)
    for path in sorted(masks.glob("*.pt")):
        yield str(path), mask_digest(path)
    cells = [("dense", 0, mode) for mode in MODES[:2]]
    cells += product(METHODS, PERCENTS, MODES)
    for method, percent, mode in cells:
        mask = masks / f"masks_sparsity{percent:02d}_{method}.pt"
        run = f"{model}-boolq_mini-{method}-sparsity{percent:02d}-{mode}-seed0"
        places = {"run_id": run, "model_path": f"models/{model}", "mask_path": mask}
        adapter = {}
        if mode != "no_finetune":
            adapter = {"adapter": f"runs/{run}/adapter"}
            call(root, "train.py", **places, **TRAINING, data_dir="data", output_dir=f"runs/{run}", threads=1)
            weights = Path(adapter["adapter"], "adapter_model.safetensors")
            yield str(weights), hashlib.sha256(weights.read_bytes()).hexdigest()
        merged = Path("runs", run, "merged")
        call(root, "merge.py", **places, **adapter, output_dir=merged, report=f"runs/{run}/merge.json")
        for path in sorted(merged.glob("*.safetensors")):
            yield str(path), hashlib.sha256(path.read_bytes()).hexdigest()


def mask_digest(path: Path) -> str:
    """Return the sha256 of what a mask file holds. How the bytes are stored is left out."""
    import torch

    content = torch.load(path, weights_only=True)
    digest = hashlib.sha256(json.dumps([content["meta"], content["shape"]], sort_keys=True).encode())
    for layer in sorted(content["bits"]):
        digest.update(content["bits"][layer].numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the project whose scripts run")
    parser.add_argument("--output", type=Path, required=True, help="JSON file: the sha256 by file")
    args = parser.parse_args()
    root, output = args.root.resolve(), args.output.resolve()
    sys.path[:0] = [str(root / "lib"), str(Path(__file__).parent)]
    os.environ["OMP_NUM_THREADS"] = "1"
    from tiny_models import TYPICAL, save_tiny

    for script in SCRIPTS:
        # Import what the script imports once, for all forks.
        runpy.run_path(str(root / "workflow/scripts" / script), run_name="imported")
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sizes = {"train_examples": 16, "validation_examples": 8}
        call(root, "prepare_task.py", task="boolq_mini", **sizes, output_dir="data")
        for model in TYPICAL:
            save_tiny(model, Path("sources", model))
            digests |= dict(make(root, model))
        os.chdir("/")
    output.write_text(json.dumps(digests, indent=2) + "\n")
    print(f"{len(digests)} files: {output}")


if __name__ == "__main__":
    main()
