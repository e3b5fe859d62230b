"""What the parts of a run agree on: who composes its steps. The contract that schedulers and the engine share."""
