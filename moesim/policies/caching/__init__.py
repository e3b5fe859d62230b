"""Systems that keep a changing set of experts in GPU memory: eviction rules, prediction, lower precision."""
