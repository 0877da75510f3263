"""A seeded fake device: what the harness is tested on where no real one tells the truth."""
