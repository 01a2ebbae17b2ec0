"""BentoML with adaptive batching: an API service before a batching one of two workers."""

import bentoml
import eager
from starlette.responses import Response


@bentoml.service(workers=2, traffic={"timeout": 60})
class Generator:
    def __init__(self) -> None:
        self.G = eager.generator()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60_000)
    def draw(self, ns: list[int]) -> list[bytes]:
        return [eager.png(images) for images in eager.images(self.G, sum(ns)).split(list(ns))]


@bentoml.service(traffic={"timeout": 60})
class Digits:
    generator = bentoml.depends(Generator)

    @bentoml.api(route="/generate")
    async def generate(self, n: int = 16) -> Response:
        (content,) = await self.generator.to_async.draw([n])
        return Response(content, media_type="image/png")
