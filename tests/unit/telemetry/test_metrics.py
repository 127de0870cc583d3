"""Names, labels and initial values of the metrics."""

import math
import re
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from relayd.errors import Reason
from relayd.telemetry.metrics import Metrics
from tests.support.project import DOCS


def families(metrics: Metrics) -> dict[str, Metric]:
    """Return what a scrape of `metrics` sees, by name."""
    found = list(text_string_to_metric_families(metrics.render().decode()))
    assert len({family.name for family in found}) == len(found)
    return {family.name: family for family in found}


@pytest.mark.fault("A23")
@pytest.mark.parametrize(
    ("family", "label", "values"),
    [
        (
            "rudder_relayd_reports",
            "status",
            {"invalid", "ok", "error", "forward_ok", "forward_error"},
        ),
        ("rudder_relayd_inventories", "status", {"forward_ok", "forward_error"}),
        ("rudder_relayd_refused", "reason", {reason.value for reason in Reason}),
        ("rudder_relayd_retried", "stage", {"examine", "database", "forward"}),
        ("rudder_relayd_watch_mode", "mode", {"inotify", "poll"}),
        (
            "rudder_relayd_remote_runs",
            "outcome",
            {"ok", "incomplete", "timeout", "stopped", "refused"},
        ),
    ],
)
def test_every_value_of_a_label_is_there_from_the_start(
    family: str, label: str, values: set[str]
) -> None:
    """A counter that has not been incremented yet is 0, not absent."""
    samples = families(Metrics())[family].samples
    assert {sample.labels[label] for sample in samples} == values
    assert {sample.value for sample in samples} == {0}


@pytest.mark.fault("A23", "F62")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rudder_relayd_managed_nodes_total", "gauge"),
        ("rudder_relayd_sub_nodes_total", "gauge"),
        ("rudder_relayd_reports_processing_duration_seconds", "histogram"),
        ("rudder_relayd_reports_size_bytes", "histogram"),
        ("process_cpu_seconds", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_max_fds", "gauge"),
        ("process_virtual_memory_bytes", "gauge"),
        ("process_start_time_seconds", "gauge"),
        ("process_threads", "gauge"),
    ],
)
def test_dashboards_of_the_original_find_their_names(name: str, kind: str) -> None:
    """Names and types are those of `rudder-relayd`."""
    assert families(Metrics())[name].type == kind


@pytest.mark.fault("F62")
def test_whole_bounds_of_buckets_are_written_as_the_original_does() -> None:
    """A bound is part of a series' identity: `1` and `1048576`, not `1.0` and `1.048576e+06`."""
    bounds = set(re.findall(r'le="([^"]+)"', Metrics().render().decode()))
    assert {"0.005", "0.5", "1", "2.5", "300", "1024", "1048576", "67108864", "+Inf"} <= bounds
    assert not [bound for bound in bounds if bound.endswith(".0") or "e" in bound]


@pytest.mark.fault("F62")
def test_threads_are_counted() -> None:
    """`process_threads` is the number of threads of this process."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert f"process_threads {threads}.0" in Metrics().render().decode()


def test_counters_count_and_gauges_follow() -> None:
    """A scrape sees the values that the service set, and no other service's scrape does."""
    metrics, other = Metrics(), Metrics()
    metrics.reports.labels("ok").inc()
    metrics.sub_nodes.set(50_000)
    metrics.report_bytes.observe(2000)
    metrics.queue.labels("examine").set(3)
    text = metrics.render().decode()
    assert 'rudder_relayd_reports_total{status="ok"} 1.0' in text
    assert "rudder_relayd_sub_nodes_total 50000.0" in text
    assert 'rudder_relayd_reports_size_bytes_bucket{le="1024"} 0.0' in text
    assert 'rudder_relayd_reports_size_bytes_bucket{le="4096"} 1.0' in text
    assert 'rudder_relayd_queue{stage="examine"} 3.0' in text
    assert 'rudder_relayd_reports_total{status="ok"} 0.0' in other.render().decode()


def test_outputs_that_are_not_in_use_are_neither_up_nor_down() -> None:
    """Before the first operation of an output its gauges are NaN, which triggers no alert."""
    text = Metrics().render().decode()
    assert "rudder_relayd_database_up NaN" in text
    assert "rudder_relayd_upstream_up NaN" in text


def test_no_series_has_a_creation_time() -> None:
    """There are no `_created` series, which double the page without being of any use."""
    assert b"_created" not in Metrics().render()


def test_the_documentation_has_every_metric_and_no_other() -> None:
    """The table for operators lists the same metrics as the code."""
    page = (DOCS / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(rudder_relayd_\w+)", page, re.MULTILINE))
    exposed = {
        name if family.type != "counter" else f"{name}_total"
        for name, family in families(Metrics()).items()
        if name.startswith("rudder_relayd_")
    }
    assert documented == exposed


def test_only_the_last_server_of_the_database_is_shown() -> None:
    """A failover replaces the server and its timeline; a standby's timeline is unknown."""
    metrics = Metrics()
    metrics.note_server("a:5432", "primary", 1)
    metrics.note_server("b:5432", "standby", None)
    found = families(metrics)
    (server,) = found["rudder_relayd_database_server"].samples
    assert (server.labels, server.value) == ({"server": "b:5432", "role": "standby"}, 1)
    (timeline,) = found["rudder_relayd_database_timeline"].samples
    assert math.isnan(timeline.value)
    metrics.note_server("b:5432", "primary", 2)
    (timeline,) = families(metrics)["rudder_relayd_database_timeline"].samples
    assert timeline.value == 2
