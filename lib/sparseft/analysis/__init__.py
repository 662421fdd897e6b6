"""Turn the run folders into what a reader sees: records -> verdicts -> tables -> figures and pages. torch is never imported."""
