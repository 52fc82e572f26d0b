"""Storages for tests: an S3 server in this process, on this machine, and the memory of fsspec."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "eyes"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server with a bucket `BUCKET`, which s3:// means for the block, also in processes started in it."""
    pytest.importorskip("s3fs", reason="s3:// needs s3fs")
    server_module = pytest.importorskip("moto.server", reason="an S3 server for tests needs moto[server]")
    import s3fs

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ.update({**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"})
    s3fs.S3FileSystem.clear_instance_cache()  # one that an earlier test made has another address
    try:
        s3fs.S3FileSystem().mkdir(BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
        os.environ.clear()
        os.environ.update(before)
