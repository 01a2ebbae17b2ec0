"""``/metrics``: what the service does, for Prometheus."""

import asyncio

from fastapi import APIRouter, Request, Response

from app import families, telemetry
from app.dependencies import ResourcesDep
from app.openapi import Described
from app.routes.classes import join_lines

_TEXT = {"schema": {"type": "string"}}
_ANSWERS: Described = {
    200: {"description": "the metrics", "content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}}
}

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, responses=_ANSWERS)
async def get_metrics(request: Request, resources: ResourcesDep) -> Response:
    """What all API processes of this host do, and the jobs of all hosts, in the text format of Prometheus.

    ``Accept`` may ask for OpenMetrics. ``docs/running.md`` has the list.
    """
    told = await families.collect(resources)
    body, media_type = await asyncio.to_thread(telemetry.render, join_lines(request, "accept"), told)
    return Response(body, media_type=media_type, headers={"Cache-Control": "no-store"})
