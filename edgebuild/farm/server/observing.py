"""What is known of a running server: a log line and a measurement for each request, and figures for Prometheus."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from sqlalchemy import func, select, text

from edgebuild.errors import StoreError
from edgebuild.farm.schema import devices, jobs, leases
from edgebuild.farm.server import logs
from edgebuild.farm.server.answers import answer_with
from edgebuild.farm.values import Health, JobEnd, JobState, LeaseState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric
    from sqlalchemy import Connection
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from edgebuild.farm.server.farm import Farm

#: Where a route leaves the name of the token that asked.
WHO = "edgebuild.who"
#: A host waits for work up to ten seconds: that is no slowness.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)
_METHOD = re.compile(r"[A-Z]{1,10}")


class Observing:
    """Gives each request an id, says how it ended, and answers what nobody foresaw. Paths are said as templates."""

    def __init__(self, app: ASGIApp, latency: Histogram) -> None:
        self._app = app
        self._latency = latency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "websocket":
            began = time.perf_counter()
            try:
                await self._app(scope, receive, send)
            finally:
                path = getattr(scope.get("route"), "path", "") or "none"
                lasted_s = round(time.perf_counter() - began, 1)
                logs.event("relay ended", who=scope.get(WHO, ""), path=path, lasted_s=lasted_s)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number, began, status = uuid.uuid4().hex, time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", number.encode())]}
            await send(message)

        failure: BaseException | None = None
        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said once and answered
            failure = error
            if not status:
                hint = f"The server's log says more, under {number}."
                await answer_with(500, "This is a bug in the farm.", hint)(scope, receive, sending)
        finally:
            self._say(scope, number, status, time.perf_counter() - began, failure)

    def _say(self, scope: Scope, number: str, status: int, took_s: float, failure: BaseException | None) -> None:
        path = getattr(scope.get("route"), "path", "") or "none"
        method = scope["method"] if _METHOD.fullmatch(scope["method"]) else "other"
        self._latency.labels(method if path != "none" else "any", path, f"{status // 100}xx").observe(took_s)
        logs.event(
            "request",
            level=logging.INFO if failure is None else logging.ERROR,
            error=failure,
            request=number,
            who=scope.get(WHO, ""),
            method=method,
            path=path,
            status=status,
            ms=round(took_s * 1000, 1),
        )


def make_registry(farm: Farm) -> tuple[CollectorRegistry, Histogram]:
    """Return the figures of one farm, and the one that requests are measured with."""
    registry = CollectorRegistry(auto_describe=False)
    latency = Histogram(
        "edgebuild_farm_request_seconds",
        "How long requests took, by route",
        ("method", "route", "status"),
        registry=registry,
        buckets=BUCKETS,
    )
    registry.register(Figures(farm))
    return registry, latency


class Figures:
    """What the tables say now, read when somebody asks."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm

    def collect(self) -> Iterator[Metric]:
        """See Prometheus."""
        trouble = GaugeMetricFamily("edgebuild_farm_trouble", "1 while the tables can't be put right")
        ago = GaugeMetricFamily("edgebuild_farm_reconciled_ago_seconds", "Since the tables were put right")
        ago.add_metric([], self._farm.late_s)
        try:
            found = self._farm.look(self._read)
        except StoreError:
            found = []
        trouble.add_metric([], 1.0 if self._farm.trouble or not found else 0.0)
        yield from (trouble, ago, *found)

    def _read(self, db: Connection) -> list[Metric]:
        return [
            _by(
                GaugeMetricFamily("edgebuild_farm_devices", "Devices by health", labels=("health",)),
                dict.fromkeys(Health, 0) | _count(db, devices.c.health),
            ),
            _by(
                GaugeMetricFamily("edgebuild_farm_queue", "Leases that wait, by target", labels=("target",)),
                _count(db, leases.c.target, leases.c.state == LeaseState.WAITING),
            ),
            _by(
                GaugeMetricFamily(
                    "edgebuild_farm_leases_held", "Leases that hold a device, by target", labels=("target",)
                ),
                _count(db, leases.c.target, leases.c.state == LeaseState.HELD),
            ),
            _by(
                CounterMetricFamily("edgebuild_farm_jobs_ended", "Jobs that ended, by how", labels=("how",)),
                dict.fromkeys(JobEnd, 0) | _count(db, jobs.c.end, jobs.c.state == JobState.ENDED),
            ),
            GaugeMetricFamily("edgebuild_farm_database_bytes", "The size of the database", value=_size(db)),
        ]


def _by(family: Any, counts: dict[str, int]) -> Any:
    for label, count in counts.items():
        family.add_metric([str(label)], count)
    return family


def _count(db: Connection, column: Any, where: Any = None) -> dict[str, int]:
    counted = select(column, func.count()).group_by(column)
    return {row[0]: row[1] for row in db.execute(counted if where is None else counted.where(where))}


def _size(db: Connection) -> float:
    if db.dialect.name == "sqlite":
        pages, page = (db.scalar(text(f"PRAGMA {name}")) or 0 for name in ("page_count", "page_size"))
        return float(pages * page)
    return float(db.scalar(text("SELECT pg_database_size(current_database())")) or 0)
