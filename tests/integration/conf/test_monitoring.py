"""Prometheus rules and the Grafana dashboard: judged by promtool, and by what relayd exposes."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest

from relayd.telemetry.metrics import Metrics
from tests.support.http import api, open_server
from tests.support.metrics import samples
from tests.support.project import CONF

PROMETHEUS: Final = CONF / "prometheus"
ALERTS: Final = PROMETHEUS / "alerts.yml"
TESTS: Final = PROMETHEUS / "alerts_test.yml"
DASHBOARD: Final = CONF / "grafana" / "relayd.json"

_NAME: Final = re.compile(r"\b(?:rudder_relayd|process)_\w+")
_SELECTOR: Final = re.compile(r"((?:rudder_relayd|process)_\w+)\{([^}]*)\}")
_LABEL: Final = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
#: What Prometheus adds to each series by itself.
_TARGET_LABELS: Final = {"job", "instance", "le"}


def promtool(*arguments: str) -> str:
    """Run promtool, which has to be satisfied; skips where it is not installed."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dashboard() -> dict[str, Any]:
    """Return the dashboard as it is shipped."""
    document: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return document


def panels() -> list[dict[str, Any]]:
    """Its panels, without the headings between them."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[str]:
    """Every query of the dashboard, for all servers."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"].replace("$instance", ".+")


def alerts_text() -> str:
    """Return the rules without comments and texts for people."""
    return re.sub(r"annotations:.*?(?=\n\n|\Z)", "", ALERTS.read_text(), flags=re.DOTALL)


async def exposed() -> dict[str, list[dict[str, str]]]:
    """Return what relayd exposes: labels of each series, by its name."""
    metrics = Metrics()
    metrics.queue.labels("examine").set(0)  # labels that the pipeline makes
    metrics.note_server("db:5432", "standby", 1)
    async with open_server(api(metrics=metrics)) as server:
        page = (await server.ask("GET", "/metrics")).body
    series: dict[str, list[dict[str, str]]] = {}
    for sample in samples(page):
        series.setdefault(sample.name, []).append(sample.labels)
    return series


def test_scrape_configuration_is_valid() -> None:
    """Prometheus accepts the shipped job."""
    promtool("check", "config", "--syntax-only", str(PROMETHEUS / "scrape.yml"))


def test_alert_rules_are_valid() -> None:
    """Prometheus accepts the shipped alerts."""
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS))


def test_alerts_fire_when_they_should() -> None:
    """Each alert fires for the trouble that it names, and a healthy server fires none."""
    names = re.findall(r"^ +- alert: (\w+)$", ALERTS.read_text(), re.MULTILINE)
    assert len(names) == len(set(names)) >= 10
    tests = TESTS.read_text()
    for name in names:
        assert f"name: {name} fires\n" in tests
        assert f"{{eval_time: 100m, alertname: {name}}}\n" in tests
    promtool("test", "rules", str(TESTS))


async def test_alerts_and_dashboard_ask_for_what_there_is() -> None:
    """Every metric and label value that a rule or a panel names is in relayd's metrics."""
    series = await exposed()
    for text in (alerts_text(), *queries()):
        for name in _NAME.findall(text):
            assert name in series, name
        for name, selector in _SELECTOR.findall(text):
            for label, operator, value in _LABEL.findall(selector):
                if label in _TARGET_LABELS:
                    continue
                values = {labels.get(label) for labels in series[name]}
                assert value in values if operator == "=" else None not in values, (name, label)


async def test_dashboard_shows_every_metric() -> None:
    """No metric of relayd is left out of the dashboard."""
    shown = {name for query in queries() for name in _NAME.findall(query)}
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in await exposed()}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    missing = {name for name in names - shown if name.startswith("rudder_relayd_")}
    assert missing == set()


def test_dashboard_queries_are_valid(tmp_path: Path) -> None:
    """Prometheus accepts every query of the dashboard."""
    rules = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(queries())]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_dashboard_panels_lie_side_by_side() -> None:
    """Panels have an id and a place of their own, a title and an explanation."""
    all_panels = dashboard()["panels"]
    assert len({panel["id"] for panel in all_panels}) == len(all_panels)
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
    for one, other in combinations([panel["gridPos"] for panel in all_panels], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)
