"""What all telemetry of one journal says of its source. OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME win."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from journal import __version__
from recovery.telemetry.conventions import SCOPE_NAME

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

RESOURCE = {
    "service.name": "`agent-journal`, unless OTEL_SERVICE_NAME says otherwise.",
    "service.version": "The version of this package.",
    "service.instance.id": "The journal's id: the same wherever its directory lies.",
}


def resource_with(more: Mapping[str, str]) -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    named = {"service.version": __version__, **more}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        named["service.name"] = SCOPE_NAME
    return Resource.create(named).merge(OTELResourceDetector().detect())
