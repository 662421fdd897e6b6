# What the terminal shows beside Snakemake's own lines: notes, the hours of a plan, a line for each job that starts or
# fails, and the findings. A wrong target and a disk that is too small end the command here, with one line.
import gc
import logging
import re
import threading
import time

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent
from sparseft.study.planning.estimate import check_disk, study_jobs, summary
from sparseft.study.inputs import rounded_heads
from sparseft.study.terminal import failure, findings, progress

# A plan makes millions of objects that stay. The search for garbage would take a fifth of its time.
gc.set_threshold(200_000)


class Terminal(logging.Handler):
    """Follow the events of Snakemake's logger, which its logger plugins get too."""

    is_running = False
    # The number of jobs in words, and the logs of those that have started.
    total, logs = None, {}

    def emit(self, record):
        """React to one event."""
        event = getattr(record, "event", None)
        if event == LogEvent.WORKFLOW_STARTED:
            check_targets()
        elif event == LogEvent.RUN_INFO and self.total is None:
            self.total, jobs, more = f" of {record.stats['total']}", map(in_plan, planned()), ""
            if any(job.is_checkpoint for job in planned()):
                self.total, jobs, more = "", study_jobs(STUDY), "more jobs follow from the search; in all "
            logger.info(f"{record.msg}\n{more}{summary(REQUESTS, jobs)}{replaced()}")
        elif event == LogEvent.JOB_INFO and self.is_running and record.log:
            self.logs[record.jobid] = Path(record.log[0])
            logger.info(f"{time.strftime('%H:%M:%S')} job {len(self.logs)}{self.total}: {record.log[0]}")
        elif event == LogEvent.JOB_ERROR and record.log:
            logger.error(failure(record.rule_name, record.log))
        elif record.msg == NOTHING_TO_BE_DONE_MSG:
            show_findings()

    def watch(self):
        """Show how far the job is that wrote last, once a minute, if it is new."""
        shown = ""
        while True:
            time.sleep(60)
            # Snakemake does not say which jobs have finished, because the profile asks for no lines of progress.
            if (line := progress(list(self.logs.values()))) and line != shown:
                logger.info(f"{time.strftime('%H:%M:%S')} {line}")
                shown = line


def check_targets():
    """End Snakemake with one line if a target is impossible, or if no rule makes it."""
    try:
        for target in workflow.dag_settings.targets:
            is_made = workflow.is_rule(target) or any(rule.is_producer(target) for rule in workflow.rules)
            targets.check_target(STUDY, target, is_made, STAGES)
    except InputError as error:
        refuse(error)


def planned():
    """Return the planned jobs. A stage is not among them, because it has no log and takes no time."""
    return [job for job in workflow.dag.needrun_jobs() if job.rule.log]


def in_plan(job):
    """Return a job with its rule, as the estimate takes it. The last script of its command is that of its stage."""
    stage = re.findall(r"(\w+)\.py\b", job.rule.shellcmd)[-1]
    return Job.of(stage, values_of(job.wildcards_dict)), job.rule.name


def replaced():
    """Return a note on the jobs that make a file again, apart from the tables; empty if there are none."""
    again = [job for job in planned() if PATHS.analysis not in str(job.output) and any(map(os.path.exists, job.output))]
    if not again:
        return ""
    reason = "snakemake --dry-run --quiet host gives each reason, and a results folder of its own keeps both"
    return f"\nnote: {len(again)} of the jobs make files again that exist; {reason} (results: results/NAME)"


def show_findings():
    """Print the findings of the study, if the user requested the analysis."""
    if any(job.rule.name == "analyze_results" for job in workflow.dag.jobs):
        print(f"\n{findings(Path(PATHS.analysis))}", flush=True)


onstart:
    TERMINAL.is_running = True
    threading.Thread(target=TERMINAL.watch, daemon=True).start()
    # A full disk on the appliance's machine leaves this file, which stops further jobs until the next start.
    Path(PATHS.stop).unlink(missing_ok=True)
    missing = [job for job in planned() if not any(map(os.path.exists, job.output))]
    try:
        check_disk(REQUESTS, map(in_plan, missing))
    except InputError as error:
        refuse(error)


onsuccess:
    show_findings()


if workflow.is_main_process:
    notes = [*STUDY.unused_training(), *rounded_heads(STUDY)]
    if GPUS and not STUDY.resources.gpus and not STUDY.training_backend.appliance:
        notes.append(
            f"GPUs of this machine: {GPUS}, and resources.gpus is 0; to use one: --config 'resources={{gpus: 1}}'"
        )
    if STUDY.ship:
        notes.append("ship makes the grid and the evaluation; those of your configuration are not used")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    TERMINAL = Terminal()
    logger.addHandler(TERMINAL)
    # A job has a line already.
    logger.addFilter(lambda record: not str(record.msg).startswith(("Select jobs to", "Execute ")))
