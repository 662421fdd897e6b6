"""Describe the metrics that the tasks report.

The tables, figures and pages of the analysis read their names and words from here. Every metric but the loss and its
perplexity is a fraction from 0 to 1, and the analysis gives it the interval of a proportion.
"""

from dataclasses import dataclass

# Only the perplexity of WikiText-2's test split has its name, because papers print that number. The sha256 is that of
# the 4358 rows of wikitext-2-raw-v1, joined by blank lines: 1,296,370 bytes of UTF-8, or 287,644 tokens of GPT-2.
WIKITEXT2_SHA256 = "696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83"
# A perplexity's name is one of these and the length of the context. Perplexities are the metrics that are no fractions.
WIKITEXT2 = "wikitext2_ppl_"
LOCAL_TEXT = "local_text_ppl_"
PERPLEXITIES = (WIKITEXT2, LOCAL_TEXT)


@dataclass(frozen=True)
class Metric:
    """Describe one metric."""

    # The key in evaluation.json, and the column of summary.csv.
    name: str
    # The key and the column of its standard error; empty if it has none.
    standard_error: str
    # What figures call it.
    label: str
    higher_is_better: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return its columns in summary.csv, which are its keys in evaluation.json."""
        return (self.name, self.standard_error) if self.standard_error else (self.name,)


ACC = Metric("acc", "acc_stderr", "accuracy")
# The log-likelihood of a choice is divided by its characters.
ACC_NORM = Metric("acc_norm", "acc_norm_stderr", "length-normalised accuracy")
# Of the second answer (yes in boolq). Its standard error is by bootstrap.
F1 = Metric("f1", "f1_stderr", "F1")
# acc of a model that always gives the more frequent answer.
MAJORITY_FLOOR = Metric("majority_floor", "", "accuracy of one answer to all questions")
EXACT_MATCH = Metric("exact_match", "exact_match_stderr", "exact match")
EXACT_MATCH_FLEXIBLE = Metric(
    "exact_match_flexible-extract", "exact_match_stderr_flexible-extract", "exact match of the last number"
)
# The headline of a task that is evaluated by its loss: the mean loss of the answer tokens, in nats.
LOSS = Metric("loss", "loss_stderr", "loss", higher_is_better=False)
TOKEN_PERPLEXITY = Metric("token_perplexity", "", "perplexity per token", higher_is_better=False)


def recall(answer: str) -> Metric:
    """Return the recall of one answer of a task whose rows all have the same answers."""
    return Metric(f"recall_{answer}", f"recall_{answer}_stderr", f"recall of {answer}")


def lm_eval_metric(name: str, standard_error: str) -> Metric:
    """Return a metric that lm-eval computes with a task's own filters or functions: a mean of fractions."""
    return Metric(name, standard_error, name.replace("_", " "))


def perplexity_name(text_sha256: str, context: int) -> str:
    """Return the name of a text's perplexity in windows of `context` tokens."""
    return f"{WIKITEXT2 if text_sha256 == WIKITEXT2_SHA256 else LOCAL_TEXT}{context}"
