"""Measured speeds of serving programs beside simulated ones: a case for each program, with what its profile was fitted on."""
