"""A place where a program can run that nobody trusts: it sees what it is given, uses what it may, and ends.

A room that knows nothing of guests, assignments or points: commands, folders and limits are all there is.
"""
