"""Exploring: every placement of the host's steps over a guest's execution, and what holds in all of them."""
