"""A disk that fills up in any stage: one line, exit code 2, nothing half written, whatever the moment."""

from pathlib import Path

import pytest
from box import RUNS, flags
from project import PAGE, call_script, small_disk

STAGES = ("compute_masks.py --pruned_dir", "train.py", "reconstruct.py", "merge.py", "evaluate.py",
          "measure_throughput.py", "analyze_results.py", "export_run.py", "export_modelzoo.py")  # fmt: skip


def pages(folder: Path) -> int:
    """Bytes that the files below `folder` take on a tmpfs."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, finished_runs, monkeypatch, stage):
    # As in a job of the workflow.
    monkeypatch.setenv("SPARSEFT_LOG_TRACEBACKS", "1")
    with small_disk(tmp_path / "large", 1 << 28) as out:
        code, output = call_script(stage, **flags(finished_runs, RUNS[0], stage, out))
        assert code == 0, output
        need = pages(out)
    for share in (0, 0.5, 1):
        with small_disk(tmp_path / f"small{share}", int(need * share) // PAGE * PAGE - PAGE * (share == 1)) as out:
            before = sorted(out.iterdir())
            code, output = call_script(stage, **flags(finished_runs, RUNS[0], stage, out))
            errors = [line for line in output.splitlines() if line.startswith("error: ")]
            assert (code, len(errors)) == (2, 1), f"{share} of {need} bytes: {output}"
            # What was being written, by its name and not by that of the temporary file.
            assert errors[0].startswith(f"error: {out}/") and ".tmp" not in errors[0], errors[0]
            assert "free space" in errors[0]
            assert "traceback" not in output.lower()
            left = [path for path in out.rglob("*") if path.is_file() and path.name != "state.pt"]  # to go on from
            assert sorted(left) == before
