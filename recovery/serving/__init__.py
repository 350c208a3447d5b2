"""The server around the state: stopping it, starting it, asking it how it is.

Two small protocols, `control.ServerControl` and `health.HealthCheck`, which a server may implement for itself; what
journal.yaml can name is beside them. Knows processes and HTTP; what is wrong with the state is not known here.
"""
