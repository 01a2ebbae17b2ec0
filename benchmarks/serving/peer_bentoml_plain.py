"""BentoML without batching, two workers."""

import bentoml
import eager
from PIL.Image import Image


@bentoml.service(workers=2, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Digits:
    def __init__(self) -> None:
        self.G = eager.generator()

    @bentoml.api(route="/generate")
    def generate(self, n: int = 16) -> Image:
        return eager.grid(eager.images(self.G, n))
