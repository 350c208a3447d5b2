"""A Grafana dashboard as JSON, from rows of panels. Pure; knows Grafana's format and not what is shown.

The format is Grafana's classic one, schema version 42 (Grafana 12 and 13; older ones take it and leave out what they do
not know). The datasource is a variable, so that an import asks for nothing and works with any Prometheus.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from docs.dashboards.panels import Panel

SCHEMA_VERSION = 42
COLUMNS = 24
HEIGHT = {"stat": 4, "timeseries": 8}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(title: str, words: str, uid: str, rows: Iterable[tuple[str, Sequence[Panel]]], present: str) -> str:
    """``present`` is a metric that every server has: the choices of `job` and `instance` come from it."""
    document = {
        "title": title, "description": words, "uid": uid, "tags": ["agent-journal"], "schemaVersion": SCHEMA_VERSION,
        "version": 1, "editable": True, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"}, "annotations": {"list": []}, "links": [], "preload": False,
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "",
             "refresh": 1, "hide": 0, "multi": False, "includeAll": False,
             "current": {"text": "default", "value": "default"}, "options": []},
            _choice("job", "Job", f"label_values({present}, job)"),
            _choice("instance", "Server", f'label_values({present}{{job=~"$job"}}, instance)'),
        ]},
        "panels": list(_placed(rows)),
    }  # fmt: skip
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _choice(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE,
        "query": {"query": query, "refId": name}, "refresh": 2, "regex": "", "sort": 1, "hide": 0, "multi": True,
        "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}, "options": [],
    }  # fmt: skip


def _placed(rows: Iterable[tuple[str, Sequence[Panel]]]) -> Iterable[dict[str, Any]]:
    number = top = 0
    for title, panels in rows:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top}}  # fmt: skip
        top, left, height = top + 1, 0, 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            number, height = number + 1, max(height, HEIGHT[panel.look])
            place = {"h": HEIGHT[panel.look], "w": panel.width, "x": left, "y": top}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            left += panel.width
        top += height


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"color": color, "value": value} for value, color in panel.steps]
    defaults: dict[str, Any] = {
        "unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds" if panel.look == "stat" else "palette-classic"}, "custom": {},
        "mappings": [{"type": "value", "options": {
            f"{value:g}": {"text": text, "color": color, "index": index}
            for index, (value, text, color) in enumerate(panel.values)
        }}] if panel.values else [],
    }  # fmt: skip
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.look == "timeseries":
        lines = "dashed" if len(steps) > 1 else "off"
        defaults["custom"] = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "auto",
                              "spanNulls": False, "thresholdsStyle": {"mode": lines}}  # fmt: skip
        options: dict[str, Any] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        defaults["noValue"] = "none"
        options = {
            "colorMode": "background", "graphMode": "none", "justifyMode": "auto", "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "textMode": "auto",
            "wideLayout": True,
        }  # fmt: skip
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend,
         "editorMode": "code", "range": panel.look != "stat", "instant": panel.look == "stat"}
        for index, query in enumerate(panel.queries)
    ]  # fmt: skip
    return {
        "type": panel.look, "title": panel.title, "description": panel.words, "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options, "targets": targets,
    }  # fmt: skip
