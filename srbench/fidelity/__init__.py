"""How close two pictures are: metrics through named providers, and the worst block."""
