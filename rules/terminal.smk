# What the terminal shows. A target that no rule makes ends in one line. Then there is one line per job, the metric of each run
# as it ends, and the time that is left. A study ends with its findings. sparseft.study.targets and sparseft.study.terminal compute this.
import logging
import time
from collections import Counter

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent
from sparseft.storage.files import read_json
from sparseft.study.terminal import Remaining, kind_of, outcome

SHOWN_OTHERWISE = {LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.PROGRESS}
SHOWN_NEVER = ("Select jobs to execute", "Removing temporary output", "Would remove temporary output")
STAGES = ("masks", "train", "validate", "evaluate", "analyze", "throughput")
SHOWN_INPUTS = 10  # inputs shown of a job that failed, because the analysis has thousands
INTERVAL = 60  # seconds between two lines on the time that is left, if no run ends


class Short(logging.Filter):
    """Leave out Snakemake's lines on each job, because Terminal prints one line instead."""

    has_table = False  # whether the table of planned jobs has been printed

    def filter(self, record):
        """Return whether a record is printed. Shorten those with long lists or a hint that does not apply here."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            is_second = self.has_table
            self.has_table = True
            return not is_second
        if event == LogEvent.JOB_ERROR and len(record.input) > SHOWN_INPUTS:
            hidden = len(record.input) - SHOWN_INPUTS
            record.input = [*record.input[:SHOWN_INPUTS], f"and {hidden} more"]
        if event is None and isinstance(record.msg, str):
            record.msg = record.msg.replace(
                "(check individual jobs above for details)", "(`--quiet host` shows each job)"
            )
            return not record.msg.startswith(SHOWN_NEVER)
        return event not in SHOWN_OTHERWISE


class Terminal(logging.Handler):
    """Follow the events of Snakemake's logger, and log one line per job, the results of runs and the time that is left."""

    def __init__(self, is_short, ends_plan):
        super().__init__()
        self.is_short = is_short
        self.ends_plan = ends_plan
        self.remaining = Remaining({})
        self.wildcards = {}
        self.last_progress = 0.0

    def emit(self, record):
        """React to one event of Snakemake."""
        event = getattr(record, "event", None)
        if event == LogEvent.WORKFLOW_STARTED:
            check_targets()
        elif workflow.output_settings.dryrun:
            if event == LogEvent.RUN_INFO and self.ends_plan:
                end_plan()
        elif event == LogEvent.RUN_INFO:
            jobs = [job for job in workflow.dag.needrun_jobs() if is_work(job.rule.name)]
            self.remaining = Remaining(Counter(kind_of(job.rule.name, job.wildcards_dict) for job in jobs))
            self.last_progress = time.monotonic()
        elif event == LogEvent.JOB_INFO:
            self.start(record)
        elif event == LogEvent.JOB_FINISHED:
            self.end(record.job_id)
        elif event == LogEvent.JOB_ERROR:
            self.remaining.fail(record.jobid, time.monotonic())
        elif record.msg == NOTHING_TO_BE_DONE_MSG:
            show_findings()

    def start(self, record):
        """Note that a job starts, and print its line."""
        if not is_work(record.rule_name):
            return
        self.remaining.start(record.jobid, kind_of(record.rule_name, record.wildcards), time.monotonic())
        self.wildcards[record.jobid] = record.wildcards
        if self.is_short:
            logger.info(f"{time.strftime('%H:%M:%S')} {record.rule_msg}")

    def end(self, job):
        """Note that a job has ended, and print its result or the time that is left."""
        now = time.monotonic()
        rule_name = self.remaining.end(job, now)
        if rule_name == "evaluate_run":
            logger.info(f"         {outcome_of(self.wildcards[job])}")
        if rule_name == "evaluate_run" or now - self.last_progress > INTERVAL:
            logger.info(f"         {self.remaining.sentence(with_time=not QUEUED)}")
            self.last_progress = now


def end_plan():
    """End a dry run after the table of its jobs, because it shows no job.

    Snakemake would evaluate the resources of every job and format its command, which takes half of the time."""
    workflow.dag.print_reasons()
    workflow.log_provenance_info()
    logger.info("This was a dry-run (flag -n).")
    # With these two, Snakemake itself ends a dry run after the table.
    workflow.output_settings.quiet = {Quietness.RULES, Quietness.PROGRESS}


def is_work(name):
    """Return whether a rule runs a command. The stages only collect files."""
    return workflow.is_rule(name) and workflow.get_rule(name).shellcmd is not None


def outcome_of(wildcards):
    """Return the line of a run that has been evaluated. A record that cannot be read is reported, and stops nothing."""
    run = grid.Run.parse(grid.RUN_ID.format(**wildcards))
    try:
        return outcome(run, read_json(f"{grid.fill(grid.RUN, run)}/evaluation.json"))
    except (InputError, OSError, KeyError) as error:
        return f"note: {run.id}: its evaluation.json cannot be read: {error}"


def check_targets():
    """End Snakemake with one line if a target does not exist and no rule makes it."""
    for target in sorted(workflow.dag_settings.targets):
        path = target if os.path.isabs(target) else os.path.relpath(target)
        if workflow.is_rule(target) or os.path.exists(path):
            continue
        try:
            targets.check_target(STUDY, path)
            if not is_made(path):
                raise targets.no_rule(path, names_like(path), STAGES)
        except InputError as error:
            refuse(error)


def is_made(path):
    """Return whether a rule makes a file of this name."""
    return any(rule.is_producer(path) for rule in workflow.rules)


def names_like(path):
    """Return the targets that the user may have meant: the stages, or the files that rules make in the folder of `path`."""
    folder = os.path.dirname(path)
    if not folder:
        return STAGES
    made = {os.path.basename(file) for rule in workflow.rules for file in rule.output}
    return [name for name in (f"{folder}/{file}" for file in made) if is_made(name)]


def show_findings():
    """Print the findings of the study, if the analysis is a part of the request."""
    if not any(job.rule.name == "analyze_results" for job in workflow.dag.jobs):
        return
    findings = Path(grid.ANALYSIS, "findings.txt")
    page = Path(grid.ANALYSIS, "report.html")
    print()
    if findings.exists():
        print(findings.read_text().rstrip())
    print(f"The results page: {page}" if page.exists() else f"Tables, figures and pages: {grid.ANALYSIS}/", flush=True)


onsuccess:
    show_findings()


if workflow.is_main_process:
    settings = workflow.output_settings
    is_short = Quietness.REASON in (settings.quiet or ()) and not settings.verbose
    # A dry run that prints commands also needs the names of their jobs.
    hides_jobs = is_short and not (settings.dryrun and settings.printshellcmds)
    handlers = {handler.name: handler for handler in logger.handlers}
    if hides_jobs and "DefaultStreamHandler" in handlers:
        handlers["DefaultStreamHandler"].addFilter(Short())
    # A logger plugin may need every job of a dry run.
    logger.addHandler(Terminal(is_short, ends_plan=hides_jobs and [*handlers] == ["DefaultStreamHandler"]))
