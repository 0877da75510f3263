"""Ladders: the options of a pipeline switched on one after another."""
