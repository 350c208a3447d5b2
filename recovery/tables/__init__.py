"""The decision tables, one module a component: when each line holds, in words and in code, and what follows.

Pure and total. docs/recovery.md is made from them.
"""
