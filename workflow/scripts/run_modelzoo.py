"""Run ModelZoo's Trainer with this project's callbacks.

    PYTHONPATH=lib:$MODELZOO_HOME/src $MODELZOO_HOME/.venv/bin/python workflow/scripts/run_modelzoo.py \\
        config/modelzoo/RUN_ID.yaml

Run it with the python of ModelZoo's environment. ModelZoo's own command, `cszoo`, cannot import callbacks of other
projects.

The Trainer writes into the configuration's model_dir, and this script adds versions.json there. With --validate_only
the steps are lowered for CSX, without an appliance.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

from sparseft.common.errors import InputError, end

PACKAGES = ("torch", "transformers", "cerebras-pytorch")
# The release of cerebras-pytorch and of ModelZoo that the callbacks and the reader of its log fit.
RELEASE = "2.10.0"


def train(configuration: Path, *, validate_only: bool) -> None:
    """Train as the configuration says. Raises InputError if ModelZoo cannot be imported."""
    # The evaluate.py beside this script hides a package that ModelZoo imports.
    here = str(Path(__file__).parent)
    sys.path[:] = [path for path in sys.path if path != here]
    try:
        import cerebras.modelzoo.trainer.utils as trainer

        # This import makes the callbacks known to the Trainer.
        import sparseft.training.trainers.modelzoo.callbacks  # noqa: F401
        import yaml
    except ImportError as error:
        raise InputError(
            f"{sys.executable} cannot import ModelZoo ({error})",
            "set MODELZOO_HOME and MODELZOO_PYTHON: docs/modelzoo.md",
        ) from None
    if version("cerebras-pytorch") != RELEASE:
        raise InputError(f"cerebras-pytorch {version('cerebras-pytorch')}", f"install ModelZoo's Release_{RELEASE}")
    from sparseft.storage.atomic import write_json

    params = yaml.safe_load(configuration.read_text())
    init = params["trainer"]["init"]
    if validate_only:
        init["backend"] = {"backend_type": "CSX", "validate_only": True}
    # The package starts torch-cirh-opt from this folder.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    model_dir = Path(init["model_dir"])
    model_dir.mkdir(parents=True, exist_ok=True)
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    write_json(model_dir / "versions.json", versions)
    trainer.run_trainer("train", params)


def main() -> Callable[[], None]:
    """Read the command line, and return the run of the Trainer."""
    # This script has a parser of its own, because ModelZoo's environment does not have cyclopts.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configuration", type=Path, help="what gen_train_config.py writes")
    parser.add_argument("--validate_only", action="store_true", help="lower the program without an appliance")
    args = parser.parse_args()
    return partial(train, args.configuration, validate_only=args.validate_only)


if __name__ == "__main__":
    end(main)
