"""What a run did, summed: bytes, hits, work, quality, energy and cost."""
