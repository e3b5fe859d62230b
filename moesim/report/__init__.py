"""How results look: pictures and the timeline that Perfetto opens. The only importer of matplotlib.

Knows results; not how they were computed.
"""
