"""The long fault runs: `make faults`, or `python -m tests.faults --help`. One file a rig, all of them in `registry`."""
