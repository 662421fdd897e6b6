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
    # What it measures, in a sentence for the documentation of the tables.
    meaning: str
    # What the value is counted in.
    unit: str = "fraction"
    higher_is_better: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return its columns in summary.csv, which are its keys in evaluation.json."""
        return (self.name, self.standard_error) if self.standard_error else (self.name,)


ACC = Metric("acc", "acc_stderr", "accuracy", "Share of examples whose likeliest choice is right.")
ACC_NORM = Metric(
    "acc_norm",
    "acc_norm_stderr",
    "length-normalised accuracy",
    "As acc, with the log-likelihood divided by the characters of the choice.",
)
F1 = Metric(
    "f1",
    "f1_stderr",
    "F1",
    "Harmonic mean of precision and recall of the second answer (yes in boolq). Its standard error is by bootstrap.",
)
MAJORITY_FLOOR = Metric(
    "majority_floor",
    "",
    "accuracy of one answer to all questions",
    "acc of a model that always gives the more frequent answer.",
)
EXACT_MATCH = Metric(
    "exact_match",
    "exact_match_stderr",
    "exact match",
    "Share of examples whose answer is right (in gsm8k the number after `####`).",
)
EXACT_MATCH_FLEXIBLE = Metric(
    "exact_match_flexible-extract",
    "exact_match_stderr_flexible-extract",
    "exact match of the last number",
    "Share of examples whose last number in the answer is right.",
)
# The headline of a task that is evaluated by its loss.
LOSS = Metric(
    "loss", "loss_stderr", "loss", "Mean loss of the answer tokens.", unit="nats per token", higher_is_better=False
)
TOKEN_PERPLEXITY = Metric(
    "token_perplexity",
    "",
    "perplexity per token",
    "exp(loss): the perplexity of an answer token.",
    unit="perplexity per token, 1 or more",
    higher_is_better=False,
)


def recall(answer: str) -> Metric:
    """Return the recall of one answer of a task whose rows all have the same answers."""
    meaning = f"Share of the examples with the answer {answer} that were answered {answer}."
    return Metric(f"recall_{answer}", f"recall_{answer}_stderr", f"recall of {answer}", meaning)


def lm_eval_metric(name: str, standard_error: str) -> Metric:
    """Return a metric that lm-eval computes with a task's own filters or functions: a mean of fractions."""
    return Metric(name, standard_error, name.replace("_", " "), f"Mean of lm-eval's {name}.")


def perplexity_name(text_sha256: str, context: int) -> str:
    """Return the name of a text's perplexity in windows of `context` tokens."""
    return f"{WIKITEXT2 if text_sha256 == WIKITEXT2_SHA256 else LOCAL_TEXT}{context}"
