"""How gsm8k's answers are found in a text and compared. The patterns are those of lm-eval's gsm8k.yaml, version 3.

This is their only place: lm-eval gets them from here, and so does the analysis, which extracts every answer again.
"""

import re

STRICT_MATCH = r"#### (\-?[0-9\.\,]+)"
FLEXIBLE_EXTRACT = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
IGNORED = [",", "\\$", "(?s).*#### ", "\\.$"]  # removed from both sides of an exact match, in this order
NO_ANSWER = "[invalid]"  # what lm-eval extracts where a pattern does not match


def strict_match(text: str) -> str:
    """Return the first number after "#### ", as lm-eval's filter strict-match extracts it."""
    match = re.search(STRICT_MATCH, text)
    return match[1].strip() if match else NO_ANSWER


def flexible_extract(text: str) -> str:
    """Return the last number of a text, as lm-eval's filter flexible-extract extracts it."""
    matches = re.findall(FLEXIBLE_EXTRACT, text)
    return next(group for group in matches[-1] if group).strip() if matches else NO_ANSWER


def exact_match(answer: str, target: str) -> bool:
    """Return whether an extracted answer is the target's, by lm-eval's metric exact_match."""
    return _normalised(answer) == _normalised(target)


def _normalised(text: str) -> str:
    for pattern in IGNORED:
        text = re.sub(pattern, "", text)
    return text.lower()
