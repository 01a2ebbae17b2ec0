"""BentoML with adaptive batching: an API service in front of a batching service with two workers."""

import bentoml
import eager
from PIL.Image import Image


@bentoml.service(workers=2, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Generator:
    def __init__(self) -> None:
        self.G = eager.generator()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60_000)
    def draw(self, ns: list[int]) -> list[Image]:
        return [eager.grid(images) for images in eager.images(self.G, sum(ns)).split(list(ns))]


@bentoml.service(traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Digits:
    generator = bentoml.depends(Generator)

    @bentoml.api(route="/generate")
    async def generate(self, n: int = 16) -> Image:
        (image,) = await self.generator.to_async.draw([n])
        return image
