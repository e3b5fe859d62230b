"""Who is in the step: schedulers that compose the steps of a run."""
