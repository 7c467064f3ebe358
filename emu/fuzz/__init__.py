"""Fuzzing: a guest under a host that is merely odd, or hostile; engines from elsewhere, inputs and oracles of ours.

In Linux: syzkaller, from the other side.
"""
