"""Say how many rows of a task show a difference."""

from statistics import NormalDist

# The level of all tests of a question together, and the share of studies that shall show the difference.
SIGNIFICANT, POWER = 0.05, 0.8


def rows_needed(difference: float, deviation: float, tests: int) -> float:
    """Return the rows with which the paired t test shows a true difference, at the strictest level of Holm's
    correction.

    `deviation` is the standard deviation of a row's difference. Half the squared quantile makes good that it is not
    known (Guenther, The American Statistician 35, 1981)."""
    quantile = NormalDist().inv_cdf(1 - SIGNIFICANT / max(1, tests) / 2)
    return ((quantile + NormalDist().inv_cdf(POWER)) * deviation / difference) ** 2 + quantile**2 / 2
