"""How routing is drawn: the same bits with numpy, compiled, or from a file that an earlier run kept."""
