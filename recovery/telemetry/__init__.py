"""What happened, told to the backends that an operator has: spans of the history, live spans, metrics.

The journal is the outbox: whatever a backend missed is still there. Conversion is pure and knows no network; transport
knows no journal. OpenTelemetry's SDK and exporters are imported only where something is sent.
"""
