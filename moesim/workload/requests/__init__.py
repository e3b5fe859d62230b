"""When requests arrive, and how long their prompts and outputs are."""
