# The digit service: API and worker in one image, on the CPU by default.
#
#   docker build -t digits .
#   docker build -t digits:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm --read-only -e DIGITS_OPEN=true -p 127.0.0.1:8000:8000 digits
#
# DIGITS_OPEN: without keys. What the port of the container is published on decides who reaches it.

FROM python:3.11-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /app
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY constraints.txt ./
# torch first, in a layer of its own: it is the largest layer and changes least often
RUN pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY worker worker
COPY models models
RUN pip install --constraint constraints.txt .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home digits && install -d -o digits -g digits /models
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DIGITS_HOST=0.0.0.0 \
    DIGITS_PORT=8000 \
    DIGITS_MODEL_DIR=/models \
    MPLCONFIGDIR=/dev/shm
USER digits
WORKDIR /home/digits
VOLUME /models
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD python -c "import http.client as h; c = h.HTTPConnection('127.0.0.1', $DIGITS_PORT, timeout=2); c.request('GET', '/livez'); exit(c.getresponse().status != 200)"
ENTRYPOINT ["digits"]
CMD ["serve"]
