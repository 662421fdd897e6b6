"""From the run folders to what a reader sees: records -> tables -> plots, memo, experiments. No torch anywhere."""
