"""Plain FastAPI, two processes: uvicorn --workers 2."""

import sys

import eager
import uvicorn
from fastapi import FastAPI, Response

app = FastAPI()
G = eager.generator()


@app.post("/generate")
def generate(n: int = 16) -> Response:
    return Response(eager.png(eager.images(G, n)), media_type="image/png")


if __name__ == "__main__":
    uvicorn.run("peer_fastapi:app", port=int(sys.argv[1]), workers=2, access_log=False)
