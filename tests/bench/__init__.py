"""Timed runs, as ratios within one run: `make bench`, or `python -m tests.bench [--quick] [SECTION ...]`.

Contenders of a section take turns in one process, so that whatever else the machine does hits them alike; a ratio is
the median over the rounds. Each run ends by opening what it wrote again and counting: a rate of rows that are not there
would be no rate. Nothing here is an assertion on time; what must not regress is counted in `tests/test_costs.py`.
"""
