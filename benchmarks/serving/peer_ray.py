"""Ray Serve with dynamic request batching, two replicas of one core."""

import signal
import sys

import eager
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=2, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Digits:
    def __init__(self) -> None:
        self.G = eager.generator()

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.002)
    async def draw(self, ns: list[int]) -> list[bytes]:
        return [eager.png(images) for images in eager.images(self.G, sum(ns)).split(list(ns))]

    async def __call__(self, request: Request) -> Response:
        return Response(await self.draw(int(request.query_params["n"])), media_type="image/png")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": int(sys.argv[1])})
    serve.run(Digits.bind(), route_prefix="/generate")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
