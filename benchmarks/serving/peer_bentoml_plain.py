"""BentoML without batching, two workers."""

import bentoml
import eager
from starlette.responses import Response


@bentoml.service(workers=2, traffic={"timeout": 60})
class Digits:
    def __init__(self) -> None:
        self.G = eager.generator()

    @bentoml.api(route="/generate")
    def generate(self, n: int = 16) -> Response:
        return Response(eager.png(eager.images(self.G, n)), media_type="image/png")
