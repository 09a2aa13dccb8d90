"""That no work is done twice is counted: files read, written and deleted, images decoded, calls of the model.

Equal bytes would not show it: work that is repeated gives the same bytes.
"""

import collections
import threading

import pytest
from apache_beam.io.filesystems import FileSystems

import beam_curate.clip.handler
from beam_curate.commands import curate, dedup, export, select
from beam_curate.duplicates import image_hashes
from beam_curate.duplicates.methods.pixels import Pixels
from beam_curate.transforms import decode_images
from tests.support.fault_filesystem import SCHEME, Faults, FaultyFileSystem
from tests.support.models import MODEL
from tests.support.storage_jobs import put, run_job, shard_bytes
from tests.support.stubs import StubHandler

GOOD = {"a.tar": 8, "b.tar": 6, "c.tar.gz": 5}


EMBEDDED = collections.Counter()


class CountingHandler(StubHandler):
    """Here and not in a fixture, since it is pickled: what it counts into is this module's."""

    def run_inference(self, batch, model, inference_args=None):
        EMBEDDED.update(image.ref.key for image in batch if not image.failure)
        return StubHandler.run_inference(self, batch, model, inference_args)


class Counts:
    """What was done since `clear`, by the name of the file."""

    def __init__(self):
        self.read, self.written, self.deleted = (collections.Counter() for _ in range(3))
        self.lock = threading.Lock()

    def clear(self):
        self.__init__()
        EMBEDDED.clear()

    def add(self, counter, path):
        with self.lock:
            counter[path.rsplit("/", 1)[-1]] += 1


@pytest.fixture
def counts(monkeypatch):
    """Counts on the file system `faulty://`, of the decoder and of the stub model."""
    found = Counts()
    monkeypatch.setattr(FaultyFileSystem, "faults", Faults())
    opened, rename, delete = FaultyFileSystem.open, FaultyFileSystem.rename, FaultyFileSystem.delete

    def reading(self, path, *arguments, **options):
        found.add(found.read, path)
        return opened(self, path, *arguments, **options)

    def renaming(self, sources, destinations):
        for path in destinations:
            found.add(found.written, path)
        rename(self, sources, destinations)

    def deleting(self, paths):
        for path in paths:
            found.add(found.deleted, path)
        delete(self, paths)

    monkeypatch.setattr(FaultyFileSystem, "open", reading)
    monkeypatch.setattr(FaultyFileSystem, "rename", renaming)
    monkeypatch.setattr(FaultyFileSystem, "delete", deleting)

    EMBEDDED.clear()
    return found


@pytest.fixture
def stored_run(counts, tmp_path):
    """The root of a store with shards, and a run that keeps nothing: so no shard is read to copy from it."""
    root = f"{SCHEME}://{tmp_path}"
    put(f"{root}/data", shard_bytes())
    run_job(f"{root}/data", f"{root}/out", handler=CountingHandler, min_aesthetic=20.0)
    return root


def test_each_sample_is_read_and_embedded_once(counts, stored_run):
    assert {name: counts.read[name] for name in GOOD} == dict.fromkeys(GOOD, 1)
    assert len(EMBEDDED) == sum(GOOD.values())
    assert set(EMBEDDED.values()) == {1}


@pytest.mark.parametrize("lost", [["b.tar"], ["a.tar", "c.tar.gz"], []])
def test_a_resumed_run_reads_and_embeds_only_what_is_missing(lost, counts, stored_run):
    parts = {name: f"part-{number:05d}.parquet" for number, name in enumerate(GOOD)}
    output = f"{stored_run}/out"
    FileSystems.delete([f"{output}/summary.json", *(f"{output}/scores/{parts[name]}" for name in lost)])
    counts.clear()
    run_job(f"{stored_run}/data", output, resume=True, handler=CountingHandler, min_aesthetic=20.0)
    assert {name for name in GOOD if counts.read[name]} == set(lost)
    assert sum(EMBEDDED.values()) == sum(GOOD[name] for name in lost)
    assert {name for name in parts if counts.written[parts[name]]} == set(lost)
    assert not {path for path in counts.deleted if path.endswith((".parquet", ".tar"))}


def test_a_source_is_opened_to_copy_only_if_something_of_it_is_kept(counts, tmp_path):
    root = f"{SCHEME}://{tmp_path}"
    put(f"{root}/data", shard_bytes())
    run_job(f"{root}/data", f"{root}/all")
    assert all(counts.read[name] > 1 for name in GOOD)


@pytest.fixture
def finished(tmp_path):
    put(str(tmp_path / "data"), {name: data for name, data in shard_bytes().items() if name == "a.tar"})
    command = [
        f"--input={tmp_path}/data/*.tar",
        f"--output={tmp_path}/run",
        *MODEL,
        "--min_aesthetic=none",
        "--max_nsfw=none",
    ]
    assert curate.main(command) == 0
    return tmp_path, command


@pytest.fixture
def no_model(monkeypatch):
    """Decoding an image for a model, and loading one, is an error from here on; the report still decodes what it shows."""

    def never(*arguments, **options):
        raise AssertionError("an image is decoded, or a model is loaded")

    def arm():
        monkeypatch.setattr(beam_curate.clip.handler.ClipModelHandler, "load_model", never)
        monkeypatch.setattr(decode_images, "decode_sizes", never)
        monkeypatch.setattr(image_hashes, "hash_image", never)

    return arm


def test_selecting_searching_and_exporting_need_neither_decoder_nor_model(finished, no_model):
    folder, _ = finished
    no_model()
    scores, out = f"--scores={folder}/run", f"--output={folder}"
    assert select.main([scores, f"{out}/best", "--keep=aesthetic > -10 and nsfw <= 1"]) == 0
    assert dedup.main([scores, f"{out}/unique", "--methods=exact,semantic"]) == 0
    assert export.main([f"--input={folder}/best", f"{out}/tars", "--format=webdataset"]) == 0


def test_the_mark_of_that_test_is_live(finished, no_model):
    """The same switch stops the main job, and a search that looks at pixels, so it would stop the other commands too."""
    folder, command = finished
    no_model()
    with pytest.raises(AssertionError, match="an image is decoded, or a model is loaded"):
        curate.main([*command, f"--output={folder}/again"])
    with pytest.raises(AssertionError, match="an image is decoded, or a model is loaded"):
        dedup.main([f"--scores={folder}/run", f"--output={folder}/pixels", "--methods=pixels"])


def test_resume_on_a_complete_run_writes_nothing(finished, no_model):
    folder, command = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.is_file()}
    no_model()
    assert curate.main([*command, "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.is_file()} == before


def test_a_dry_run_writes_nothing(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert select.main([f"--scores={folder}/run", "--min_aesthetic=5", "--dry_run"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_search_for_duplicates_that_goes_on_decodes_no_image_again(finished, monkeypatch):
    folder, _ = finished
    decoded = []
    hash_image = image_hashes.hash_image
    monkeypatch.setattr(image_hashes, "hash_image", lambda data, most: decoded.append(1) or hash_image(data, most))
    command = [f"--scores={folder}/run", f"--output={folder}/unique", "--methods=pixels,perceptual"]

    def stopped(*arguments):
        raise RuntimeError("stopped after the hashes")

    with monkeypatch.context() as patched:
        patched.setattr(Pixels, "compare", stopped)
        with pytest.raises(RuntimeError, match="stopped after the hashes"):
            dedup.main(command)
    assert len(decoded) == GOOD["a.tar"]
    assert dedup.main([*command, "--resume"]) == 0
    assert len(decoded) == GOOD["a.tar"]
    # And once it is complete, what it packed stays as well.
    tars = {path: path.stat().st_ino for path in (folder / "unique").glob("0*")}
    assert tars
    (folder / "unique" / "summary.json").unlink()
    assert dedup.main([*command, "--resume"]) == 0
    assert len(decoded) == GOOD["a.tar"]
    assert {path: path.stat().st_ino for path in (folder / "unique").glob("0*")} == tars
