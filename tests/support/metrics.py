"""Reads a metrics page in Prometheus' text format."""

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def samples(page: str | bytes) -> list[Sample]:
    """Return the samples of a page in their order."""
    text = page.decode() if isinstance(page, bytes) else page
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value(page: str | bytes, name: str, **labels: str) -> float:
    """Return the value of the one sample with this name and exactly these labels.

    Raises:
        KeyError: the page has no such sample.
    """
    text = page.decode() if isinstance(page, bytes) else page
    # A test may ask again and again; the parser takes 20 ms for a whole page.
    wanted = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    for sample in samples("\n".join(wanted) + "\n"):
        if sample.labels == labels:
            return sample.value
    raise KeyError(f"{name}{labels}")
