"""Draw the figures of the analysis, each as a matplotlib Figure that plots.py writes."""
