"""Meaning: what events make of memory.db and the agent files, at any seq.

Imports from `journal` only. What went wrong and what to do about it is `recovery`'s.
"""
