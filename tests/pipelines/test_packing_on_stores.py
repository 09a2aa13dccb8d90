"""`pack` on gs:// and s3://: every kind of source gives its bytes, and what is finished is neither read nor written again."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems

from beam_curate.commands import pack
from tests.support.storage_jobs import NOT_COMPARED, put, stored

IMAGES = {f"{n}.jpg": b"\xff\xd8\xff image %d" % n for n in range(5)}
CAPTIONS = [f"caption {n}" for n in range(5)]


def rows_of(paths, *, as_bytes=False):
    images = [{"bytes": IMAGES[f"{n}.jpg"], "path": None} for n in range(5)] if as_bytes else paths
    return {("image" if as_bytes else "path"): images, "caption": CAPTIONS}


def parquet(columns):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=2)
    return out.getvalue()


def csv(paths):
    return "".join(["path,caption\n", *(f"{path},caption {n}\n" for n, path in enumerate(paths))]).encode()


def lines(paths):
    rows = [{"path": path, "caption": caption} for path, caption in zip(paths, CAPTIONS, strict=True)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


NAMES = list(IMAGES)
LISTS = ("index.json", "sizes.json", "summary.json")
# By kind: the files beside the images, what --input names, further options, the extensions of the members beside the image.
KINDS = {
    "folder": ({f"{n}.txt": CAPTIONS[n].encode() for n in range(5)}, "", (), {"txt"}),
    "glob": ({f"{n}.txt": CAPTIONS[n].encode() for n in range(5)}, "*.jpg", (), {"txt"}),
    "classes": ({}, "", ("--class_folders",), {"cls", "json"}),
    "csv": ({"t.csv": csv(NAMES)}, "t.csv", ("--caption_column=caption",), {"txt", "json"}),
    "jsonl": ({"tables/t.jsonl": lines(NAMES)}, "tables/t.jsonl", ("--base={root}",), {"json"}),
    "parquet-paths": ({"t.parquet": parquet(rows_of(NAMES))}, "t.parquet", (), {"json"}),
    "parquet-bytes": ({"t.parquet": parquet(rows_of(NAMES, as_bytes=True))}, "t.parquet", (), {"json"}),
    "txt": ({"t.txt": "\n".join(NAMES).encode()}, "t.txt", (), set()),
}


def packed(store, kind, *more):
    """Packs two rows to a shard; returns the folder of the output."""
    source, out = f"{store.root}/{kind}", f"{store.root}/{kind}-packed"
    _, name, flags, _ = KINDS[kind]
    words = [f"--input={source}/{name}", f"--output={out}", "--samples_per_shard=2", *store.options, *more]
    assert pack.main([*words, *(flag.format(root=source) for flag in flags)]) == 0
    return out


def members(files):
    """The members of all tars, by name, as tarfile reads them."""
    found = {}
    for name in sorted(files):
        if name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(files[name])) as archive:
                found |= {member.name: archive.extractfile(member).read() for member in archive}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_is_packed_and_goes_on(store, kind):
    beside, _, _, extensions = KINDS[kind]
    folder = "ant/" if kind == "classes" else ""
    images = {} if kind == "parquet-bytes" else {f"{folder}{name}": data for name, data in IMAGES.items()}
    put(f"{store.root}/{kind}", {**images, **beside})
    out = packed(store, kind)
    before = stored(out)
    assert [name for name in sorted(before) if name.endswith(".tar")] == [f"0000{n}.tar" for n in range(3)]
    found = members(before)
    by_image = {name.partition(".")[0]: data for name, data in found.items() if name.endswith(".jpg")}
    assert list(by_image.values()) == list(IMAGES.values())
    assert {name.partition(".")[2] for name in found} == {"jpg", *extensions}
    if "txt" in extensions:
        assert [found[f"{key}.txt"].decode() for key in by_image] == CAPTIONS
    if kind == "classes":
        assert found["ant/0.cls"] == b"0"
    FileSystems.delete([f"{out}/summary.json", f"{out}/00001.tar"])
    store.sent.clear()
    store.written.clear()
    packed(store, kind, "--resume")
    read, written = dict(store.sent), dict(store.written)
    after = stored(out)
    assert {name: after[name] for name in after if name not in NOT_COMPARED} == {
        name: before[name] for name in before if name not in NOT_COMPARED
    }
    # Of the images those of the second shard alone, and of its own files all once.
    of_images = {name for name in read if name.startswith(f"{kind}/") and name.endswith((".jpg", ".txt"))}
    again = [name for name, _ in sorted(images.items())][2:4]
    wanted = {f"{kind}/{name}" for name in again}
    if not KINDS[kind][1].endswith(("csv", "txt", "l", "parquet")):
        wanted |= {
            name.replace(".jpg", ".txt") for name in wanted if name.partition("/")[2].replace(".jpg", ".txt") in beside
        }
    assert of_images - {f"{kind}/t.txt"} == wanted
    assert not [name for name in read if name.startswith(f"{kind}-packed/") and name.endswith(".tar")]
    remade = {f"{kind}-packed/{name}" for name in ("00001.tar", "rows/00001.parquet", *LISTS)}
    assert written == dict.fromkeys(remade, 1)
