"""Turn the run folders into what a reader sees: records -> frames -> cells -> comparisons -> pages. torch is never
imported."""
