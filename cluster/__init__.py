"""Where work runs: Ray start-up, replica actors, the scheduler and the records of a run."""
