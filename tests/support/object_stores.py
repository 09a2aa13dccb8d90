"""Object stores for tests: gs:// on a GCS emulator and s3:// on moto's server, started here, with counts of what they did."""

import collections
import functools
import logging
import os
import socket
import threading
import urllib.parse

import pytest
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from tests.support.storage_jobs import put

BUCKET = "bucket"


class Store:
    """A running object store: its root, Beam's options for it, and what it has sent."""

    def __init__(self, root, options):
        self.root, self.options = root, options
        self.sent = collections.Counter()  # bytes of contents, by object
        self.requests = collections.Counter()
        self.written = collections.Counter()  # how often an object was made, temporary ones left out
        self.fail_next = 0  # so many answers are 503

    def note_write(self, name):
        name = urllib.parse.unquote(name)
        if name and "_temporary/" not in name:
            self.written[name] += 1

    def put(self, name, data):
        put(self.root, {name: data})

    def put_empty(self, name):
        """Beam's writer for S3 cannot."""
        if not self.root.startswith("s3"):
            self.put(name, b"")
            return
        boto3 = pytest.importorskip("boto3")
        client = boto3.session.Session().client("s3", endpoint_url=self.options[0].split("=", 1)[1])
        client.put_object(Bucket=BUCKET, Key=name, Body=b"")

    def get(self, name):
        stream = FileSystems.open(f"{self.root}/{name}", compression_type=CompressionTypes.UNCOMPRESSED)
        return stream.read()


@pytest.fixture(scope="module")
def gcs():
    pytest.importorskip("gcp_storage_emulator", reason="the GCS emulator is in the extra `dev`")
    from gcp_storage_emulator import server, storage
    from google.cloud.storage._bucket_metadata_cache import BucketMetadataCache

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    logging.getLogger("api.object").setLevel(logging.CRITICAL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = Store(f"gs://{BUCKET}", [])
    answer = server.Response.write_file
    handle = server.Router.handle

    def count(response, content, content_type="application/octet-stream"):
        name = response._handler.path.split("?")[0].rpartition("/o/")[2].replace("%2F", "/")
        store.sent[name] += len(content)
        store.requests[name] += 1
        answer(response, content, content_type)

    def fail(router, method):
        if store.fail_next:
            store.fail_next -= 1
            router._request_handler.send_error(503)
        else:
            handle(router, method)

    create = storage.Storage.create_file

    def noted(self, bucket, name, *more):
        store.note_write(name)
        return create(self, bucket, name, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.Storage, "create_file", noted)
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        # The emulator wants no credentials; Beam would look for them for half a minute.
        patch.setattr("apache_beam.io.gcp.gcsio.auth.get_service_credentials", lambda options: None)
        # The client asks for the bucket's place at its first request, in a thread, again and again where it is told none.
        patch.setattr(BucketMetadataCache, "get_or_queue_fetch", lambda self, bucket: None)
        patch.setattr(server.Response, "write_file", count)
        patch.setattr(server.Router, "handle", fail)
        with server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET):
            yield store


@pytest.fixture(scope="module")
def s3():
    pytest.importorskip("flask", reason="moto's server is in the extra `dev`")
    boto3 = pytest.importorskip("boto3", reason="boto3 is in the extra `s3`")
    from moto import backends
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    moto = DomainDispatcherApplication(create_backend_app)
    services = list(backends.list_of_moto_modules())  # it looks for them on the disk, for each request

    def app(environ, start_response):
        if store.fail_next:
            store.fail_next -= 1
            start_response("503 Slow Down", [])
            return [b""]
        if environ["REQUEST_METHOD"] == "PUT":
            store.note_write(environ["PATH_INFO"].removeprefix(f"/{BUCKET}/"))
        body = b"".join(moto(environ, start_response))
        if environ["REQUEST_METHOD"] == "GET" and not environ["QUERY_STRING"]:
            name = environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
            store.sent[name] += len(body)
            store.requests[name] += 1
        return [body]

    server = make_server("127.0.0.1", 0, app, threaded=True)
    session = boto3.session.Session()
    url = f"http://127.0.0.1:{server.port}"
    store = Store(f"s3://{BUCKET}", [f"--s3_endpoint_url={url}"])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # Beam makes a session for every operation, and each one takes 0.1 s to read its service descriptions; and a client
        # with it, which takes 20 ms. How often a client asks again it reads from the environment when it is made.
        patch.setattr(boto3.session, "Session", lambda: session)
        make = session.client
        kept = functools.cache(lambda attempts, name, options: make(name, **dict(options)))

        def client(service_name, **options):
            return kept(os.environ.get("AWS_MAX_ATTEMPTS"), service_name, tuple(sorted(options.items())))

        patch.setattr(session, "client", client)
        patch.setattr(backends, "list_of_moto_modules", lambda: services)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        session.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
        yield store
        server.shutdown()


@pytest.fixture(params=["gcs", "s3"])
def store(request):
    found = request.getfixturevalue(request.param)
    FileSystems.set_options(PipelineOptions(found.options))
    yield found
    FileSystems.set_options(None)
