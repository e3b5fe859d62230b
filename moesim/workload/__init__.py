"""What is asked for: requests, their lengths, and which experts every token of theirs is routed to.

Knows nothing of hardware, policies or time.
"""
