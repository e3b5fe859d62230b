"""Before a run: what fits where, rooflines, break-even points, ceilings."""
