"""The hostile guest: random programs on the real machine, and what must hold of the host whatever they do.

`python -m tests.hostile --operations 1000000` is the full form of the bar (`make prove-hostile`).
"""
