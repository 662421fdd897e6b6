"""Name the perplexity of a text, and recognise WikiText-2's test split.

Only the perplexity on WikiText-2 has its name, because papers print that number. The sha256 is that of the 4358 rows of
wikitext-2-raw-v1's test split, joined by blank lines. They are 1,296,370 bytes of UTF-8, or 287,644 tokens of GPT-2.
"""

PLACE = "Salesforce/wikitext/wikitext-2-raw-v1@b08601e04326c79dfdd32d625aee71d232d685c3"
TEXT_SHA256 = "696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83"
# A perplexity's name is one of these and the length of the context. Perplexities are the metrics that are no fractions.
WIKITEXT2 = "wikitext2_ppl_"
LOCAL_TEXT = "local_text_ppl_"
PREFIXES = (WIKITEXT2, LOCAL_TEXT)


def metric_name(text_sha256: str, context: int) -> str:
    """Return the name of a text's perplexity in windows of `context` tokens."""
    return f"{WIKITEXT2 if text_sha256 == TEXT_SHA256 else LOCAL_TEXT}{context}"
