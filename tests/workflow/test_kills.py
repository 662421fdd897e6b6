"""A kill at any moment leaves whole files or none, and the same command then gives the bits of an undisturbed run."""

import os
import signal
from pathlib import Path

import forks
import pytest
from box import RUNS, flags
from project import read_record, succeed, tree, words_of
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.pruning.masks.mask_file import read_mask

pytestmark = pytest.mark.slow
# What a script writes, in the order in which its renames make it appear.
WRITTEN = {
    "compute_masks.py --pruned_dir": ("pruned/sparsity*", "masks/*.pt"),
    "import_pruned.py": ("pruned/sparsity*", "masks/*.pt"),
    "reconstruct.py": ("adapter", "train.json"),
}


def run_until(renames: int, script: str, given: dict) -> None:
    """Run a script that kills itself by SIGKILL instead of the next rename, if it has renamed so many times."""
    left, replace = iter(range(renames)), os.replace

    def count(*places: object) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*places)

    os.replace = count
    forks.script(script, *words_of(given))


def results(out: Path) -> dict[str, str]:
    """Return the digests of what a script wrote. train.json has times."""
    return {name: digest for name, digest in tree(out).items() if name != "train.json"}


@pytest.mark.parametrize("script", WRITTEN)
def test_a_kill_at_any_moment_leaves_whole_files_and_the_command_goes_on_to_the_same_bits(
    finished_runs, tmp_path, script
):
    seen, resumed = set(), set()
    for renames in range(20):
        out = tmp_path / f"{renames}"
        given = flags(finished_runs, RUNS[0], script, out)
        code, output = forks.call(run_until, renames, script.split()[0], given)
        assert code in (0, -signal.SIGKILL), output
        seen.add(tuple(bool(list(out.glob(pattern))) for pattern in WRITTEN[script]))
        for mask in out.glob("masks/*.pt"):
            (base,) = out.glob("pruned/sparsity*")
            assert read_mask(mask).meta["base"] == Checkpoint(base).digest
        if code == 0:
            break
        succeed(script, **given)
        assert results(out) == results(tmp_path / "0")
        if script == "reconstruct.py":
            resumed.update(read_record(out / "train.json")["reconstruction"]["resumed_after_layers"])
    assert results(out) == results(tmp_path / "0")
    assert seen == {(False, False), (True, False), (True, True)}
    # A reconstruction continues after the last decoder layer of its state.
    assert resumed == ({1, 2} if script == "reconstruct.py" else set())
