"""A Slurm of one node for as long as the tests run: its own munge, ports, configuration and folder; needs root."""

import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

SERVERS = ("munged", "slurmctld", "slurmd")
MUNGE_FILES = ("key-file", "socket", "pid-file", "seed-file")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sshare")
CONFIGURATION = """
ClusterName=sparseft
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
MinJobAge=3600
KillWait=2
Licenses=csx:1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 {node} Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE DefMemPerCPU=500 State=UP
"""


def missing() -> list[str]:
    """What this machine lacks for a Slurm of its own."""
    found = [name for name in (*SERVERS, *COMMANDS[:5]) if _program(name) is None]
    return found if os.geteuid() == 0 else [*found, "root"]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _configure(folder: Path) -> None:
    """Write the configuration of the servers, and commands that find it whatever the environment says.

    The executor plugin takes SLURM_* out of the environment."""
    host = socket.gethostname().partition(".")[0]
    hardware = subprocess.run([_program("slurmd"), "-C"], capture_output=True, text=True, check=True).stdout
    node = hardware.split("\n")[0].partition(" ")[2]
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        controller, daemon = one.getsockname()[1], two.getsockname()[1]
    text = CONFIGURATION.format(folder=folder, host=host, controller=controller, daemon=daemon, node=node)
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    for name in COMMANDS:
        wrapper = folder / "bin" / name
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_program(name)} "$@"\n')
        wrapper.chmod(0o755)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A running Slurm; PATH has its commands. Its three servers are ended by their own process ids."""
    if lacking := missing():
        pytest.skip(f"needs a Slurm of its own: {', '.join(lacking)} missing (apt-get install slurm-wlm munge)")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    _configure(folder)
    munge = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in MUNGE_FILES]
    servers = [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-f", f"{folder}/slurm.conf"],
        ["slurmd", "-D", "-f", f"{folder}/slurm.conf"],
    ]
    path = os.environ["PATH"]
    with ExitStack() as stack:
        stack.callback(os.environ.__setitem__, "PATH", path)
        os.environ["PATH"] = f"{folder}/bin:{path}"
        for name, *arguments in servers:
            output = stack.enter_context(open(folder / f"{name}.output", "w"))
            process = subprocess.Popen([_program(name), *arguments], stdout=output, stderr=output)
            stack.callback(_end, process)
            time.sleep(1)
        _await_node(folder)
        yield folder
        subprocess.run(["scancel", "--user=root"], check=False)
        time.sleep(3)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_node(folder: Path) -> None:
    for _ in range(60):
        listed = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
        if re.search("idle", listed.stdout):
            return
        time.sleep(1)
    raise RuntimeError(f"the node is not idle after a minute: {listed.stdout}{listed.stderr}; see {folder}/*.log")
