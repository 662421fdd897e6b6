# What the terminal shows in addition to Snakemake's own lines: notes before the first job, one line per job and per error, the
# result of each run, the hours of the plan, and the findings. `--quiet host` shows Snakemake's own lines instead. If another
# workflow imports this one, the terminal is its own.
import gc
import logging
import signal
import time
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from threading import Event, Thread, Timer

import numpy as np
import psutil
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent
from sparseft.planning.estimate import check_disk, needs
from sparseft.planning.inputs import rounded_heads
from sparseft.planning.probe import this_machine
from sparseft.study import terminal

# By default, Python looks for garbage after every 700 new objects. A plan makes millions of objects that stay, so this search
# would take a fifth of its time. It begins with the first job.
gc.disable()

OUTPUT = workflow.output_settings
# A dry run that prints commands must also print their jobs.
IS_SHORT = (
    Quietness.REASON in (OUTPUT.quiet or ()) and not OUTPUT.verbose and not (OUTPUT.dryrun and OUTPUT.printshellcmds)
)
HIDDEN = {LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.PROGRESS}
# What Snakemake says of a failed script before it reports the job.
FAILED = "RuleException:\nCalledProcessError"
# Seconds between two looks at how far the slowest job is.
LOOK = 30
# Seconds in which a job may end by itself after Ctrl-C.
GRACE = 3


# Set by Ctrl-C.
INTERRUPTED = Event()


def is_shown(record):
    """Return whether Snakemake's own handler prints a record. Say before the plan what it makes again."""
    event = getattr(record, "event", None)
    if INTERRUPTED.is_set() and IS_SHORT:
        # The failures of jobs that Ctrl-C ended are not errors.
        return False
    if str(record.msg).startswith("Error: Directory cannot be locked. Another"):
        record.msg = "note: another command runs in this folder; what it is making still counts as missing in this plan"
    if event == LogEvent.RUN_INFO:
        outputs = (Path(path) for job in workflow.dag.needrun_jobs() for path in job.output)
        if note := terminal.made_again(STUDY, [path for path in outputs if path.exists()]):
            print(f"note: {note}", file=sys.stderr)
    elif event == LogEvent.JOB_ERROR:
        # The analysis has thousands of inputs.
        record.input = record.input[:10]
        lines = [terminal.failure(Path(log), Path(PATHS.logs)) for log in record.log if log.startswith(PATHS.logs)]
        if IS_SHORT and any(lines):
            print(*lines, sep="\n", file=sys.stderr)
            return False
    elif event == LogEvent.ERROR and IS_SHORT and str(record.msg).startswith(FAILED):
        return False
    return not (IS_SHORT and (event in HIDDEN or str(record.msg).startswith(("Select jobs", "Removing temporary"))))


class Terminal(logging.Handler):
    """Follow the events of Snakemake, after its own handler."""

    # The wildcards of the evaluations that run, by the number of their job.
    evaluations = {}
    # The logs of the jobs that run, by number, in the order in which they started.
    logs = {}
    is_planned = False

    def emit(self, record):
        """React to one event."""
        event = getattr(record, "event", None)
        if event == LogEvent.WORKFLOW_STARTED:
            check_targets()
        elif event == LogEvent.RUN_INFO and not self.is_planned:
            self.is_planned = True
            if OUTPUT.dryrun:
                logger.info(f"{terminal.requested(map(requests_of, unlike_jobs()))}\n")
            # A stage has no log, and takes no time.
            planned = [job for job in workflow.dag.needrun_jobs() if job.rule.log]
            logger.info(needs(STUDY, [(job.rule.name, job.wildcards_dict) for job in planned], speeds()))
            check_space([job for job in planned if not any(map(os.path.exists, job.output))])
            if OUTPUT.dryrun and IS_SHORT:
                # Quiet about both, Snakemake ends a dry run here.
                OUTPUT.quiet = {Quietness.RULES, Quietness.PROGRESS}
        elif event == LogEvent.JOB_INFO and IS_SHORT:
            # A job has the name of its log; a stage has none.
            name = Path(record.log[0]).relative_to(PATHS.logs).with_suffix("") if record.log else record.rule_name
            logger.info(f"{time.strftime('%H:%M:%S')} {name}")
            self.logs[record.jobid] = [(name, Path(log)) for log in record.log]
            if record.rule_name == "evaluate_run":
                self.evaluations[record.jobid] = record.wildcards
        elif event == LogEvent.JOB_ERROR:
            self.logs.pop(record.jobid, None)
        elif event == LogEvent.JOB_FINISHED:
            self.logs.pop(record.job_id, None)
            if record.job_id in self.evaluations:
                logger.info(f"         {terminal.result(self.evaluations[record.job_id], PATHS, run_interval)}")
        elif event == LogEvent.PROGRESS and IS_SHORT:
            logger.info(f"         {record.done} of {record.total} jobs done")
        elif record.msg == NOTHING_TO_BE_DONE_MSG:
            show_findings()


def show_progress(logs):
    """Say again and again how far the job is that has run for the longest time, if it says so in its log."""
    said = ""
    while not INTERRUPTED.wait(LOOK):
        lines = [f"{name}: {line}" for name, log in chain(*logs.copy().values()) if (line := terminal.progress(log))]
        if lines and lines[0] != said:
            said = lines[0]
            logger.info(f"{time.strftime('%H:%M:%S')} {said}")


def speeds():
    """Return the speeds of this machine. The jobs in a queue run on others, which the user must know."""
    machine = this_machine()
    return replace(machine, source=f"{machine.source}; the jobs run elsewhere") if machine and QUEUED else machine


def unlike_jobs():
    """Return one of the planned jobs of each rule, model and task, because the others request as much."""
    return {
        (job.rule.name, job.wildcards_dict.get("model"), job.wildcards_dict.get("task")): job
        for job in workflow.dag.needrun_jobs()
        if job.rule.log
    }.values()


def requests_of(job):
    """Return the rule of a job, and what it requests."""
    found = job.resources
    return job.rule.name, {
        "memory, MB": int(found.get("mem_mb", 0)),
        "minutes": int(found.get("runtime", 0)),
        "GPUs": int(found.get("gpu", 0)),
        "threads": job.threads,
    }


def interrupt(number, frame):
    """End Snakemake, and soon its jobs too. Ctrl-C reaches them all, but a signal from another program only Snakemake.

    Snakemake would wait until its jobs have finished, and then make their results again. The executor of a cluster cancels
    its jobs."""
    if not INTERRUPTED.is_set():
        print("interrupted; the jobs end now, and the same command continues the study", file=sys.stderr)
    INTERRUPTED.set()
    if not QUEUED:
        timer = Timer(GRACE, interrupt_jobs)
        timer.daemon = True
        timer.start()
    # As a shell reports a program that SIGINT ended. A KeyboardInterrupt would print where the plan was.
    sys.exit(130)


def interrupt_jobs():
    """Send Ctrl-C to all processes below this one."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)


def run_interval(outcomes):
    """Return the ends of the interval of one run, as the analysis computes it. Its libraries take a second to import."""
    from sparseft.analysis.statistics import Scores, Spread, interval

    return interval(Scores(np.array([outcomes]), (0,)), Spread())


def check_targets():
    """End Snakemake with one line if a target does not exist and no rule makes it."""
    try:
        for target in workflow.dag_settings.targets:
            is_made = workflow.is_rule(target) or any(rule.is_producer(target) for rule in workflow.rules)
            terminal.check_target(STUDY, target, is_made)
    except InputError as error:
        refuse(error)


def check_space(jobs):
    """End Snakemake with one line if the disk has no room for what jobs write. A dry run only says so."""
    try:
        check_disk(STUDY, [(job.rule.name, job.wildcards_dict) for job in jobs])
    except InputError as error:
        if not OUTPUT.dryrun:
            refuse(error)
        print(f"note: {error}", file=sys.stderr)


def show_findings():
    """Print the findings of the study, if the user requested the analysis."""
    if any(job.rule.name == "analyze_results" for job in workflow.dag.jobs):
        print(f"\n{terminal.findings(Path(PATHS.analysis))}", flush=True)


onstart:
    # The objects of the plan stay, so no search for garbage needs to read them.
    gc.freeze()
    gc.enable()
    if IS_SHORT:
        Thread(target=show_progress, args=[Terminal.logs], daemon=True).start()
    # A full disk on the appliance's machine leaves this file, which stops further jobs until the next start.
    Path(PATHS.stop).unlink(missing_ok=True)


onsuccess:
    show_findings()


if workflow.is_main_process:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    notes = [*STUDY.unused_training(), *rounded_heads(STUDY)]
    if GPUS and not STUDY.resources.gpus and STUDY.training_backend.uses_this_machine:
        notes.append(
            f"GPUs of this machine: {GPUS}, and resources.gpus is 0; to use one: --config 'resources={{gpus: 1}}'"
        )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    for handler in logger.handlers:
        # A logger plugin (--logger) has a handler of its own.
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(is_shown)
    logger.addHandler(Terminal())
