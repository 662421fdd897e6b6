"""cerebras-pytorch itself: its release, the backend that a process opens, and the digest of a compiled program.

Source: training-docs.cerebras.ai, "Writing a custom training loop". The names are those of cerebras-pytorch 2.10.0.
"""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from sparseft.errors import InputError
from sparseft.language_model.hardware import versions
from sparseft.study.backends.cerebras import CerebrasJob

RELEASES = ("2.6.0", "2.10.0")
try:
    import cerebras.pytorch as cstorch
    from cerebras.appliance.cluster.config import ClusterConfigError
except ImportError as error:
    raise InputError(
        f"{sys.executable} has no cerebras-pytorch ({error})",
        f"run make .venv-cerebras/installed-{RELEASES[-1]}, and use that environment's python",
    ) from None
RELEASE = version("cerebras-pytorch")
if RELEASE not in RELEASES:
    raise InputError(f"cerebras-pytorch {RELEASE}", f"install {' or '.join(RELEASES)}")

# The keys of the section `cerebras` that are arguments of ClusterConfig.
CLUSTER_KEYS = ("num_csx", "job_labels", "job_priority", "job_time_sec", "mount_dirs", "python_paths")
# The source lines in a lowered program.
_PLACES = re.compile(r"^#loc.*\n| loc\(.*?\)(?=[\s,)]|$)", re.MULTILINE)


def open_backend(
    cerebras: CerebrasJob, folder: Path, *, compile_only: bool = False, validate_only: bool = False
) -> cstorch.backend:
    """Return the backend of this process, which can have only one. Its logs go to `folder`/cerebras_logs.

    `validate_only` lowers the program without an appliance. Raises InputError for a setting that the package refuses."""
    logs = str(folder / "cerebras_logs")
    if not cerebras.on_csx:
        if compile_only or validate_only:
            raise InputError("cerebras.target CPU compiles nothing", "set cerebras.target to CSX")
        return cstorch.backend("CPU", artifact_dir=logs)
    # The package logs the queue, the compilation and the name of the job at this level.
    logging.getLogger().setLevel(logging.INFO)
    add_tools_to_path()
    try:
        cluster = cstorch.distributed.ClusterConfig(**{name: getattr(cerebras, name) for name in CLUSTER_KEYS})
    except ValueError as error:
        raise InputError(f"cerebras: {error}", "correct it in the configuration") from None
    cstorch.backends.csx.performance.micro_batch_size = cerebras.csx_micro_batch_size
    return cstorch.backend(
        "CSX",
        artifact_dir=logs,
        compile_dir=cerebras.compile_dir,
        compile_only=compile_only,
        validate_only=validate_only,
        cluster_config=cluster,
    )


def add_tools_to_path() -> None:
    """Add the folder of this python to PATH, because the package starts torch-cirh-opt from there."""
    tools = str(Path(sys.executable).parent)
    os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"


def package_versions() -> dict[str, str]:
    """Return the versions that a record of this backend names, by package."""
    return versions() | {"cerebras-pytorch": RELEASE}


def program_digest(program: Path) -> str:
    """Return the sha256 of a lowered program, a cirh.mlir file, without the source lines that it came from."""
    return hashlib.sha256(_PLACES.sub("", program.read_text()).encode()).hexdigest()


@contextmanager
def appliance_needed() -> Iterator[None]:
    """Raise InputError if the block finds no appliance."""
    try:
        yield
    except ClusterConfigError as error:
        raise InputError(
            f"this machine knows no Cerebras appliance ({error})",
            "run on the appliance's user node, or set cerebras.target to CPU",
        ) from None
