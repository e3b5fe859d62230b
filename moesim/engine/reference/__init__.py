"""The reference engine: the same programs timed in SimPy. The only importer of simpy."""
