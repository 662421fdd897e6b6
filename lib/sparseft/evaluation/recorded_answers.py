"""Write the files of lm-eval from the record of an evaluation, without the model.

lm-eval evaluates the tasks again. A recorded answer takes the place of each answer of the model, so that metrics,
prompts and files are lm-eval's own.
"""

from itertools import chain
from pathlib import Path
from time import perf_counter

from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.loggers import EvaluationTracker

from sparseft.data.lm_eval_rendering import sandboxed
from sparseft.data.prepared import find_task, read_splits
from sparseft.errors import InputError
from sparseft.evaluation.harness import load_task, simple_evaluate
from sparseft.records.evaluation_record import AnswersPart, EvaluationRecord
from sparseft.tasks.lm_eval import members_of

# lm-eval would start git to find the version of this project, and no record has it.
evaluator.get_git_commit_hash = lambda: None


class RecordedAnswers(LM):
    """Answer lm-eval's requests with the recorded answers, by the name of their task."""

    def __init__(self, answers: dict[str, AnswersPart]) -> None:
        super().__init__()
        self.log_likelihoods = {name: part.log_likelihoods or [] for name, part in answers.items()}
        self.generations = {name: part.generations or [] for name, part in answers.items()}

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each choice. No metric here needs the second value."""
        return [(self.log_likelihoods[each.task_name][each.doc_id][each.idx], False) for each in requests]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the generated text of each prompt."""
        return [self.generations[each.task_name][each.doc_id] for each in requests]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Fail, because no task of lm-eval that SparseFT evaluates asks for it."""
        raise NotImplementedError


def write_lm_eval_files(record: EvaluationRecord, run_id: str, data: Path, folder: Path) -> None:
    """Write results_DATE.json and samples_TASK_DATE.jsonl for an evaluation and its probes, as `lm_eval --log_samples`
    does.

    `data` holds the prepared rows of each task. Raises InputError if they are not the evaluated ones, or if a file
    could not be written."""
    answers: dict[str, AnswersPart] = {record.task: record, **record.probes}
    digests = {name: (probe.data_sha256, probe.train_sha256) for name, probe in record.probes.items()}
    digests[record.task] = (record.inputs.data, record.inputs.train)
    # The rows of a group's members are in its own folder.
    folder_of = {name: name for name in answers} | {
        member: group for group, part in record.groups.items() for member in part.members
    }
    tasks = []
    for place in dict.fromkeys(folder_of.values()):
        task = find_task(data / place, place)
        rows, prepared = read_splits(data / place, task)
        parts = list(members_of(task, rows))
        if any((prepared["validation"], prepared["train"]) != digests[part.name] for part, _ in parts):
            raise InputError(
                f"{data / place}: not the rows that were evaluated",
                "name the folder of the study's data with --data_dir",
            )
        tasks += [load_task(*part) for part in parts]
    with sandboxed(record.task):
        results = simple_evaluate(RecordedAnswers(answers), tasks)
    samples = results.pop("samples")
    # No record says whether a choice is the model's greedy one.
    for sample in chain(*samples.values()):
        if isinstance(sample["filtered_resps"][0], tuple):
            sample["filtered_resps"] = [(log, None) for log, _ in sample["filtered_resps"]]
            sample["resps"] = [[pair] for pair in sample["filtered_resps"]]
    # What lm-eval says of this process is not true of the evaluation.
    model = {"model": "hf", "model_args": {"pretrained": run_id}}
    results["config"] |= model | {"device": record.device, "model_dtype": record.dtype}
    results |= {"date": None, "lm_eval_version": record.harness and record.harness.removeprefix("lm-eval ")}
    tracker = EvaluationTracker(output_path=str(folder / "results.json"))
    tracker.general_config_tracker.log_experiment_args("hf", {"pretrained": run_id}, None, None, False)
    tracker.general_config_tracker.start_time = perf_counter() - record.seconds
    tracker.save_results_aggregated(results=results, samples=samples)
    for name, rows in samples.items():
        tracker.save_results_samples(task_name=name, samples=rows)
        written = folder / f"samples_{name}_{tracker.date_id}.jsonl"
        # lm-eval only logs a warning if it cannot write.
        if not written.exists() or written.read_bytes().count(b"\n") != len(rows):
            raise InputError(f"{written}: lm-eval could not write it", "check the free space")
