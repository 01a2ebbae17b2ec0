"""What a running service tells Prometheus."""

from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

REQUESTS = "digits_http_request_duration_seconds"


@dataclass(frozen=True)
class Scrape:
    """One scrape of ``/metrics``."""

    text: str

    @classmethod
    def of(cls, client: httpx.Client) -> "Scrape":
        return cls(client.get("/metrics").raise_for_status().text)

    @property
    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        families = text_string_to_metric_families(self.text)
        return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]

    @property
    def names(self) -> set[str]:
        return {name for name, _, _ in self.samples}

    def find(self, wanted: str, **labels: str) -> list[float]:
        """The values of a metric whose labels include these."""
        return [value for name, found, value in self.samples if name == wanted and labels.items() <= found.items()]

    def sum(self, wanted: str, **labels: str) -> float:
        return sum(self.find(wanted, **labels))

    def count(self, **labels: str) -> float:
        """How many requests were counted."""
        return self.sum(f"{REQUESTS}_count", **labels)

    def list_cumulative(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Everything that must never fall: counters, and counts and sums of histograms."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text)
            if family.type in ("counter", "histogram")
            for sample in family.samples
        }
