"""Systems whose CPU computes experts where they lie, beside the GPU."""
