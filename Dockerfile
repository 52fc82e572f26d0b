# fundusgrade with its shipped weights, for a CPU:
#   docker build --tag fundusgrade .
#   docker run --rm --volume "$PWD/images:/images:ro" --volume "$PWD/out:/out" --user "$(id -u):$(id -g)" \
#     fundusgrade predict /images --csv /out/grades.csv
# The usual build of PyTorch for Linux brings several gigabytes for GPUs. To leave them out, give the address of PyTorch's
# index of CPU builds: docker build --build-arg TORCH_INDEX=ADDRESS --tag fundusgrade .
FROM python:3.12-slim AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv /opt/fundusgrade
RUN if [ -n "$TORCH_INDEX" ]; then /opt/fundusgrade/bin/pip install torch torchvision --index-url "$TORCH_INDEX"; fi
COPY pyproject.toml README.md LICENSE ./
COPY weights weights
COPY src src
RUN /opt/fundusgrade/bin/pip install '.[dicom,parquet]'

FROM python:3.12-slim
COPY --from=build /opt/fundusgrade /opt/fundusgrade
# Any user may run it; models and data sets of its own live in /store, which a volume keeps.
RUN mkdir /store && chmod 1777 /store
ENV PATH="/opt/fundusgrade/bin:$PATH" FUNDUSGRADE_HOME=/store MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
USER 1000:1000
ENTRYPOINT ["fundusgrade"]
CMD ["--help"]
