"""Who decides: the slots of a policy, the pieces that policies share, and one file per published system.

Knows models, machines and requests; nothing of events or time.
"""
