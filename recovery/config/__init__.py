"""journal.yaml: the table of its keys, what a value may be, and reading the file against them."""
