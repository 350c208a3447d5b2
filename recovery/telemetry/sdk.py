"""OpenTelemetry's SDK for the command, from the standard OTEL_* variables and only where they ask for it.

The process is the command's own, so it may set what is global there; the library never does. Exporters are found by
the entry points that their packages declare. A wrong variable is told and costs no recovery.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from typing import Any, Literal

Signal = Literal["traces", "metrics"]


def exporters_of(signal: Signal, environment: Mapping[str, str]) -> list[str]:
    """The exporters that the variables ask for, by name: those that are listed, else OTLP where it has an endpoint."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    listed = environment.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip()
    if listed:
        return [name for each in listed.split(",") if (name := each.strip()) and name != "none"]
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return ["otlp"] if any(environment.get(name) for name in endpoints) else []


def entry_point_of(name: str, signal: Signal, environment: Mapping[str, str]) -> str:
    """The name that the exporter's package declares: `otlp` is one of two, by the protocol that is asked for."""
    if name != "otlp":
        return name
    general = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    protocol = environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", general).strip()
    return "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"


@contextmanager
def running(verb: str, note: Callable[[str], None]) -> Iterator[None]:
    """The SDK around one run of the command, whose span is the root of what it does. Without variables, nothing."""
    environment = os.environ
    wanted: dict[Signal, list[str]] = {
        "traces": exporters_of("traces", environment), "metrics": exporters_of("metrics", environment),
    }  # fmt: skip
    if not any(wanted.values()):
        yield
        return
    made: dict[Signal, list[Any]] = {signal: list(_make(signal, names, note)) for signal, names in wanted.items()}
    closing = [*_trace_to(made["traces"]), *_measure_to(made["metrics"])]
    try:
        if made["traces"]:
            from replay.tracing import span

            with span(f"journal {verb}"):
                yield
        else:
            yield
    finally:
        for provider in closing:
            with suppress(Exception):  # what a backend does not take is in the journal
                provider.shutdown()


def _make(signal: Signal, names: list[str], note: Callable[[str], None]) -> Iterator[Any]:
    for name in names:
        declared = entry_point_of(name, signal, os.environ)
        found = next(iter(entry_points(group=f"opentelemetry_{signal}_exporter", name=declared)), None)
        if found is None:
            hint = " (pip install 'agent-journal[otlp]')" if declared.startswith("otlp") else ""
            note(f"no {signal} go to {name!r}: no exporter of that name is installed{hint}")
            continue
        try:
            yield found.load()()
        except Exception as error:
            note(f"no {signal} go to {name!r}: {type(error).__name__}")


def _trace_to(exporters: list[Any]) -> Iterator[Any]:
    if not exporters:
        return
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from recovery.telemetry.resource import resource_with

    provider = TracerProvider(resource=resource_with({}))
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield provider


def _measure_to(exporters: list[Any]) -> Iterator[Any]:
    if not exporters:
        return
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    from recovery.telemetry.resource import resource_with

    readers = [PeriodicExportingMetricReader(exporter) for exporter in exporters]
    provider = MeterProvider(readers, resource=resource_with({}))
    metrics.set_meter_provider(provider)
    yield provider
