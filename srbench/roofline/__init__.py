"""Counted work against what a card can do: limits, measured ceilings, and the share reached."""
