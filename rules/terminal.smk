# What the terminal shows: one line per job, the metric of each run when it ends, the remaining time, and the findings at the
# end of the study. A target that no rule makes ends Snakemake with one line. sparseft.study.terminal computes these texts. This
# file connects them to Snakemake's logger.
import logging
import time

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent
from sparseft.planning.hours import hours_table
from sparseft.study import terminal

# Terminal prints one line instead of these events.
SHOWN_OTHERWISE = {LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.PROGRESS}


class Short(logging.Filter):
    """Leave out what Snakemake prints about each job, because Terminal prints one line instead."""

    # Whether the table of planned jobs has been printed.
    has_table = False

    def filter(self, record):
        """Return whether a record is printed. Shorten a record with a long list, or with a hint that does not apply here."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            is_second = self.has_table
            self.has_table = True
            return not is_second
        if event == LogEvent.JOB_ERROR:
            record.input = terminal.first_inputs(record.input)
        if event is None and isinstance(record.msg, str):
            record.msg = terminal.shortened(record.msg)
            return record.msg is not None
        return event not in SHOWN_OTHERWISE


class BeforePlan(logging.Filter):
    """Say what the plan makes again before its table is printed, and leave out Snakemake's advice to skip it."""

    is_said = False

    def filter(self, record):
        """Return whether a record is printed."""
        if getattr(record, "event", None) == LogEvent.RUN_INFO and not self.is_said:
            self.is_said = True
            outputs = (Path(path) for job in workflow.dag.needrun_jobs() for path in job.output)
            if note := earlier.made_again(STUDY, [path for path in outputs if path.exists()]):
                print(f"note: {note}", file=sys.stderr)
        return not str(record.msg).startswith(terminal.ADVICE)


class Terminal(logging.Handler):
    """Follow the events of Snakemake's logger, and log one line per job, the results of runs and the remaining time."""

    def __init__(self, is_short, ends_plan):
        super().__init__()
        self.is_short = is_short
        self.ends_plan = ends_plan
        self.progress = terminal.JobProgress([], PATHS, time.monotonic(), with_time=not QUEUED)

    def emit(self, record):
        """React to one event of Snakemake."""
        event = getattr(record, "event", None)
        if event == LogEvent.WORKFLOW_STARTED:
            check_targets()
        elif workflow.output_settings.dryrun:
            if event == LogEvent.RUN_INFO and self.ends_plan:
                end_plan()
        elif event == LogEvent.RUN_INFO:
            self.progress = terminal.JobProgress(planned_work(), PATHS, time.monotonic(), with_time=not QUEUED)
        elif event == LogEvent.JOB_INFO and is_work(record.rule_name):
            self.progress.start(record.jobid, record.rule_name, record.wildcards, time.monotonic())
            if self.is_short:
                logger.info(f"{time.strftime('%H:%M:%S')} {record.rule_msg}")
        elif event == LogEvent.JOB_FINISHED:
            for line in self.progress.end(record.job_id, time.monotonic()):
                logger.info(f"         {line}")
        elif event == LogEvent.JOB_ERROR:
            self.progress.fail(record.jobid, time.monotonic())
        elif record.msg == NOTHING_TO_BE_DONE_MSG:
            show_findings()


def end_plan():
    """End a dry run after the table of its jobs.

    Otherwise Snakemake would evaluate the resources of every job and format its command, though neither is shown. This takes
    half of the time."""
    workflow.dag.print_reasons()
    logger.info("This was a dry-run (flag -n).")
    logger.info(hours_table(STUDY, planned_work())[-1])
    # If it is quiet about both, Snakemake ends a dry run after the table.
    workflow.output_settings.quiet = {Quietness.RULES, Quietness.PROGRESS}


def planned_work():
    """Return the rule and the wildcards of each job of the plan that runs a command."""
    return [(job.rule.name, job.wildcards_dict) for job in workflow.dag.needrun_jobs() if is_work(job.rule.name)]


def is_work(name):
    """Return whether a rule runs a command. The stages only collect files."""
    return workflow.is_rule(name) and workflow.get_rule(name).shellcmd is not None


def check_targets():
    """End Snakemake with one line if a target does not exist and no rule makes it."""
    outputs = [output for rule in workflow.rules for output in rule.output]
    try:
        terminal.check_targets(STUDY, workflow.dag_settings.targets, workflow.is_rule, is_made, outputs)
    except InputError as error:
        refuse(error)


def is_made(path):
    """Return whether a rule makes a file of this name."""
    return any(rule.is_producer(path) for rule in workflow.rules)


def show_findings():
    """Print the findings of the study, if the user requested the analysis."""
    if any(job.rule.name == "analyze_results" for job in workflow.dag.jobs):
        print(f"\n{terminal.findings(Path(PATHS.analysis))}", flush=True)


onsuccess:
    show_findings()


if workflow.is_main_process:
    settings = workflow.output_settings
    is_short = Quietness.REASON in (settings.quiet or ()) and not settings.verbose
    # If a dry run prints commands, it must also print their jobs.
    hides_jobs = is_short and not (settings.dryrun and settings.printshellcmds)
    handlers = {handler.name: handler for handler in logger.handlers}
    if hides_jobs and "DefaultStreamHandler" in handlers:
        handlers["DefaultStreamHandler"].addFilter(Short())
    logger.addFilter(BeforePlan())
    # A dry run is not ended early if a logger plugin is present, because the plugin may need every job.
    logger.addHandler(Terminal(is_short, ends_plan=hides_jobs and [*handlers] == ["DefaultStreamHandler"]))
