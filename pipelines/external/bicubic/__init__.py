"""Bicubic resampling: the floor of every table of quality."""
