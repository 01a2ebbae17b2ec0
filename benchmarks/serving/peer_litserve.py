"""LitServe with dynamic batching, two workers."""

import sys
from typing import Any

import eager
import litserve
from fastapi import Response


class Digits(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.G = eager.generator()

    def decode_request(self, request: dict[str, int]) -> int:
        return request["n"]

    def batch(self, inputs: list[int]) -> list[int]:
        return inputs

    def predict(self, inputs: list[int]) -> list[Any]:
        return list(eager.images(self.G, sum(inputs)).split(inputs))

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> Response:
        return Response(eager.png(output), media_type="image/png")


if __name__ == "__main__":
    api = Digits(max_batch_size=8, batch_timeout=0.002, api_path="/generate")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2, timeout=60)
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning", access_log=False)
