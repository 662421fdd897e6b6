"""What the terminal says of a failed job and of one that runs."""

import os

import pytest
from sparseft.study.terminal import failure, progress


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"traceback | error: inner\n\xff\nerror: one; do it\nerror: two; do that\nE0000 failed\n", "two; do that"),
        (b"step 1 of 3\ninterrupted\n", "interrupted; give the same command again to go on"),
        (b'environment: line 1: 11213 Killed         CUDA_VISIBLE_DEVICES= "${@:2}"\n', "the job was killed, "),
        (None, "it failed"),
    ],
)
def test_a_failed_job_is_one_line_with_its_error_and_its_log(tmp_path, text, said):
    log = tmp_path / "a-seed0.log"
    if text:
        log.write_bytes(text)
    line = failure("merge_run", [str(log), "slurm.log"])
    assert line.replace("error: ", "").startswith(f"merge_run: {said}")
    assert line.endswith(f"(log: {log}, slurm.log)")


def test_the_progress_of_the_jobs_is_the_last_line_that_counts_in_the_log_that_was_written_last(tmp_path):
    done, log = tmp_path / "a.log", tmp_path / "b.log"
    assert progress([done, log]) == ""
    done.write_text("decoder layer 3 of 3, 9 s\n")
    log.write_text("decoder layer 1 of 3, 4 s\nstep 2 of 30: loss 0.5\nsome warning\n")
    os.utime(done, (1, 1))
    assert progress([log, done]) == "b: step 2 of 30: loss 0.5"
