"""Assignments: what is set, what is handed in, and the judgement of the one by the other.

A room that knows students, points and files, and nothing of how a machine works: that is asked for.
"""
