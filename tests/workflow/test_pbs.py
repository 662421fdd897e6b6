"""profiles/pbs against stand-ins for qsub and qstat, which run the jobs on this machine: no PBS was there.

The stand-ins take the flags and print the fields that PBS Pro documents, and end a training that asked for too little
memory."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from project import ROOT, Study, program, tiny_grid

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_cluster_generic") is None,
    reason="needs Snakemake's executor plugins (make test-slurm)",
)
PROFILE = ["--profile", str(ROOT / "profiles/pbs"), "--latency-wait", "10", "--seconds-between-status-checks", "1",
           "--max-status-checks-per-second", "10"]  # fmt: skip
QSUB = """
import argparse, os, re, subprocess, sys
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("-N", required=True); parser.add_argument("-l", action="append", required=True)
parser.add_argument("-j", choices=["oe"]); parser.add_argument("-o", required=True); parser.add_argument("script")
job, queue = parser.parse_args(), Path(os.environ["QUEUE"])
number = len(list(queue.glob("*.asked"))) + 1
(queue / f"{number}.asked").write_text(f"{job.N} {' '.join(job.l)}")
memory = int(re.search(r"mem=(\\d+)mb", job.l[0])[1])
least = int(os.environ.get("LEAST", 0)) if "train" in job.N else 0
body = f"sh {job.script}" if memory >= least else "exit 271"
command = f"({body}); echo $? > {queue}/{number}.code"
with open(Path(job.o) / f"{number}.OU", "w") as log:
    process = subprocess.Popen(["sh", "-c", command], stdout=log, stderr=log, start_new_session=True)
(queue / f"{number}.pid").write_text(str(process.pid))
print(f"{number}.server")
"""
QSTAT = """
import os, sys
from pathlib import Path
assert sys.argv[1:3] == ["-x", "-f"], sys.argv
code = Path(os.environ["QUEUE"]) / (sys.argv[3].split(".")[0] + ".code")
if not code.with_suffix(".pid").exists():
    sys.exit("qstat: Unknown Job Id " + sys.argv[3])
ended = code.read_text().strip() if code.exists() else ""
status = f"\\n    Exit_status = {ended}" if ended else ""
print(f"Job Id: {sys.argv[3]}\\n    job_state = {'F' if ended else 'R'}{status}")
"""


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Path:
    """The stand-in's folder; its commands are in PATH."""
    folder = tmp_path / "queue"
    folder.mkdir()
    for name, body in (("qsub", QSUB), ("qstat", QSTAT)):
        program(tmp_path / "bin" / name, f"#!{sys.executable}{body}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("QUEUE", str(folder))
    return folder


@pytest.fixture
def study(tmp_path, tiny_models) -> Study:
    cells = tiny_grid("llama", "boolq_mini", ["unstructured"], sparsities=[50], modes=["sparse_to_dense"])
    model = {"llama": tiny_models["llama"]}
    return Study(tmp_path / "study").configure(model, grid=cells, resources={"threads": 1})


def asked(queue: Path, rule: str) -> list[str]:
    files = sorted(queue.glob("*.asked"), key=lambda path: int(path.stem))
    return [text for path in files if (text := path.read_text()).startswith(f"sparseft-{rule} ")]


@pytest.mark.slow
def test_a_study_goes_through_the_queue_and_memory_grows_where_it_was_too_little(queue, study, monkeypatch):
    monkeypatch.setenv("LEAST", "1500")
    study.snakemake(*PROFILE)
    assert len(study.table()) == 2
    assert study.planned() == {}
    trainings = asked(queue, "train_adapter")
    low, high = (int(re.search(r"ncpus=1:mem=(\d+)mb", text)[1]) for text in trainings)
    assert low < 1500 <= high == 2 * low
    assert [text.split("walltime=")[1] for text in trainings] == ["00:21:00", "00:42:00"]
    assert "ngpus" not in trainings[0]


def test_jobs_in_a_queue_share_no_gpu(study):
    output = study.snakemake(*PROFILE, "--dry-run", "--config", "resources={gpus: 1, jobs_per_gpu: 2}", expect=2)
    assert output.endswith("error: resources.jobs_per_gpu: the cluster gives each job GPUs of its own; set it to 1\n")


def loaded(name: str) -> dict:
    return runpy.run_path(str(ROOT / f"profiles/pbs/{name}.py"))


@pytest.mark.parametrize(("printed", "state"), [
    ("Job Id: 1.s\n    job_state = R\n    comment = Exit_status = 0\n", "running"),
    ("Job Id: 1.s\n    job_state = F\n    Exit_status = 0\n", "success"),
    ("Job Id: 1.s\n    job_state = F\n    Exit_status = 271\n", "failed"),
    ("Job Id: 1.s\n    job_state = F\n", "failed"),  # deleted before it ran
])  # fmt: skip
def test_the_state_of_a_job_is_what_qstat_says(printed, state):
    assert loaded("status")["state"](printed) == state


def test_a_job_asks_for_what_its_properties_say():
    job = {"rule": "train_adapter", "threads": 8,
           "resources": {"mem_mb": 20000, "runtime": 211, "gpu": 2, "pbs_extra": "-q gpu -A 'my project'"}}  # fmt: skip
    flags = loaded("submit")["flags"](job)
    chunk = "select=1:ncpus=8:mem=20000mb:ngpus=2"
    assert flags[:6] == ["-N", "sparseft-train_adapter", "-l", chunk, "-l", "walltime=03:31:00"]
    assert flags[-4:] == ["-q", "gpu", "-A", "my project"]
