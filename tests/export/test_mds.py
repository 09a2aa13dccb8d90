"""MDS files: each byte as MosaicML's writer has it, and each sample as a reader of our own finds it."""

import base64
import hashlib
import io
import json
import math
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tfrecord import tfrecord_loader

from beam_curate.commands import export, select
from beam_curate.export import mds
from beam_curate.export.formats import mds as format_file
from beam_curate.export.mds import MDSFile, TooLargeError, describe_file, index_of
from tests.support.exporting_runs import awkward, curated
from tests.support.mds_reader import read_mds

ENCODINGS = {
    **{"key": "str", "image": "bytes", "width": "int32", "aesthetic": "float32", "count": "int64"},
    **{"embedding": "ndarray:float16:3", "caption": "str"},
}
SAMPLES = [
    {
        **{"key": "a/1", "image": b"\0\xff\x01", "width": 7, "aesthetic": 1.5, "count": -3},
        **{"embedding": np.array([1, -2, 0.5], np.float16), "caption": "caf\u00e9"},
    },
    {
        **{"key": "b", "image": b"", "width": 2**31 - 1, "aesthetic": math.nan, "count": 2**40},
        **{"embedding": np.array([0, 0, 1], np.float16), "caption": ""},
    },
]
# Written by MDSWriter of mosaicml-streaming 0.13.0 of ENCODINGS and SAMPLES, with hashes=["md5"] and size_limit=None.
THEIRS = base64.b85decode(
    "0ssI2Qvm<~fB^siqX7T_dm>|RY;|pJUuAA%Z)9n1XLBMtAX_44Y;R$7GcqD9AR=>gaw04sB57`PHZ&qEAR=yLVRCX|c{*lnZ((#XHaasREFdCc"
    "d30rSA}k;xb98bdEFdCjZgev;B3&#XB4clCb!~26ZeeX@b0Rt*TOwg)b988BbZKKEEFdCdVQ_S5Z*C$iAR=RLb#8PbEFdCfZDM6)WNB_^A}k;x"
    "X>DO=Wg;vfB5P%NA}k;xcWGpFXd+!KAR=RLY;|pJUvp`CWpg4rAX_vnAZ~SRY%Cx+EFd;4AZ~SRY%Cydb!==bAT(VpAR=RLZE$jBb8~5LZX!A$"
    "Zgp&IEFdCgZ*py6bRs$+B5h=IA}k;xXkl|`Wpg4rAX_4BWHlmPEFdCtX?kT}Y-w$2bRs$+Zgp&IEFdCwWpZ<AZ*C$wAToUg000030000300000"
    "0Kh+EVP?ar{r~^}|NsC006YM|05|~u0bwsO2LJ#700000000000RR91006*$00000009610000006b#<|Nnm"
)
THEIR_INDEX = {
    "version": 2,
    "shards": [
        {
            "column_encodings": ["float32", "str", "int64", "ndarray:float16:3", "bytes", "str", "int32"],
            "column_names": ["aesthetic", "caption", "count", "embedding", "image", "key", "width"],
            "column_sizes": [4, None, 8, 6, None, None, 4],
            **{"compression": None, "format": "mds", "hashes": ["md5"], "samples": 2, "size_limit": None, "version": 2},
            "raw_data": {
                "basename": "shard.00000.mds",
                "bytes": 419,
                "hashes": {"md5": "45fa06532f121c239fb6f78b93c6a5fa"},
            },
            "zip_data": None,
        }
    ],
}


def written(samples, encodings=ENCODINGS):
    out = io.BytesIO()
    file = MDSFile(out, io.BytesIO(), encodings)
    for sample in samples:
        file.add(sample)
    file.close()
    return out.getvalue()


def test_each_byte_is_that_of_their_writer():
    data = written(SAMPLES)
    assert data == THEIRS
    md5 = hashlib.md5(data).hexdigest()
    assert index_of([describe_file(ENCODINGS, "shard.00000.mds", 2, len(data), md5)]) == THEIR_INDEX


def test_more_bytes_than_a_file_takes_are_refused(monkeypatch):
    monkeypatch.setattr(mds, "MAX_FILE_BYTES", len(THEIRS))
    assert len(written(SAMPLES)) == len(THEIRS)
    with pytest.raises(TooLargeError, match="3 samples need more here: put fewer samples into a file"):
        written([*SAMPLES, SAMPLES[0]])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """21 made samples in three source shards of 7, in output shards of 5."""
    folder = tmp_path_factory.mktemp("mds")
    return curated(awkward(folder), folder / "run", "--samples_per_shard=5")


def exported(run, output, *flags, status=0):
    words = [f"--input={run}", f"--output={output}", "--format=mds", "--samples_per_file=4", *flags]
    assert export.main(words) == status
    return output


def rows_of(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("[0-9]*.parquet"))]).to_pylist()


def members_of(run):
    found = {}
    for path in sorted(run.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = archive.extractfile(member).read()
    return found


def check(samples, run, output):
    """Every sample against the run's tars and the rows beside the files."""
    members, whole = members_of(run), {row["key"]: row for row in rows_of(run)}
    for sample, row in zip(samples, rows_of(output), strict=True):
        own, old = members[sample["key"]], whole[sample["key"]]
        assert (sample["key"], sample["width"], sample["height"]) == (row["key"], row["width"], row["height"])
        assert sample["sha256"] == hashlib.sha256(sample["image"]).hexdigest() == row["sha256"]
        if not row.get("reencoded"):
            assert sample["image"] == own[old["image"]]
        assert (sample["format"], sample["caption"]) == (row["format"].lower(), row["caption"] or "")
        assert sample["member/json"] == own["json"]
        assert sample["aesthetic"] == np.float32(row["aesthetic"])
        assert sample["embedding"].dtype == np.float16
        assert sample["embedding"].tolist() == old["embedding"]


@pytest.mark.parametrize("more", [[], ["--shuffle_seed=3"], ["--resize_shortest=64"]])
def test_every_sample_comes_back(run, tmp_path, more):
    output = exported(run, tmp_path / "out", "--fields=*,embedding,.json", *more)
    samples = read_mds(output)
    keys = [row["key"] for row in rows_of(run)]
    assert sorted(sample["key"] for sample in samples) == sorted(keys)
    assert ([sample["key"] for sample in samples] == keys) == ("--shuffle_seed=3" not in more)
    check(samples, run, output)
    assert len(list(output.glob("*.mds"))) == 6


def test_the_package_itself_reads_it(run, tmp_path):
    """Where it is installed, `pip install mosaicml-streaming`; it is too heavy for the development environment."""
    local = pytest.importorskip("streaming.base.local")
    output = exported(run, tmp_path / "out", "--fields=*,embedding,.json")
    check(list(local.LocalDataset(str(output))), run, output)


@pytest.mark.parametrize("more", [[], ["--resize_shortest=64"]])
def test_what_every_table_has_is_in_the_records_if_it_is_asked_for(run, tmp_path, more):
    """Where a sample was scored, and the bytes of its image as it is here: in MDS and in TFRecord files."""
    asked = ["shard", "shard_index", "index", "size"]
    output = exported(run, tmp_path / "mds", f"--fields=caption,{','.join(asked)}", *more)
    rows = rows_of(output)
    samples = read_mds(output)
    assert [[sample[name] for name in asked] for sample in samples] == [[row[name] for name in asked] for row in rows]
    assert [sample["size"] for sample in samples] == [len(sample["image"]) for sample in samples]
    flags = ["--format=tfrecord", f"--fields={','.join(asked)}", *more]
    records = [
        record
        for path in sorted(exported(run, tmp_path / "tfrecord", *flags).glob("*.tfrecord"))
        for record in tfrecord_loader(str(path), None)
    ]
    found = [[record["shard"].decode(), *(int(record[name][0]) for name in asked[1:])] for record in records]
    assert found == [[row[name] for name in asked] for row in rows]


def test_a_selection_writes_the_same_files_in_one_pass(run, tmp_path):
    once, twice = tmp_path / "once", exported(run, tmp_path / "twice")
    assert select.main([f"--scores={run}", f"--output={once}", "--format=mds", "--samples_per_shard=4"]) == 0
    names = [f"{n:05d}.mds" for n in range(6)] + ["index.json"]
    assert [(once / name).read_bytes() for name in names] == [(twice / name).read_bytes() for name in names]


def test_what_waits_on_the_disk_is_the_same(run, tmp_path, monkeypatch):
    in_memory = exported(run, tmp_path / "memory")
    monkeypatch.setattr(format_file, "_IN_MEMORY", 1)
    on_disk = exported(run, tmp_path / "disk")
    for path in in_memory.glob("*.mds"):
        assert path.read_bytes() == (on_disk / path.name).read_bytes()


def test_a_list_that_is_gone_is_missed_and_made_again(run, tmp_path, capsys):
    output = exported(run, tmp_path / "out")
    before = (output / "index.json").read_bytes()
    (output / "index.json").unlink()
    exported(run, output, "--resume", status=2)
    assert "index.json is missing" in capsys.readouterr().err
    (output / "summary.json").unlink()
    exported(run, output, "--resume")
    assert (output / "index.json").read_bytes() == before


def test_files_larger_than_the_format_takes_are_refused_before_any_work(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(format_file.MDSFiles, "max_file_bytes", 20_000)
    exported(run, tmp_path / "out", status=2)
    said = capsys.readouterr().err
    assert "--samples_per_file 4: files of --format mds hold " in said
    most = int(said.split("give at most ")[1].split(",")[0])
    assert 1 <= most < 4
    assert not (tmp_path / "out").exists()
    exported(run, tmp_path / "out", f"--samples_per_file={most}")
    exported(run, tmp_path / "small", "--resize_shortest=64")  # not known before the images are encoded


def test_the_card_says_how_to_read_it(run, tmp_path):
    card = (exported(run, tmp_path / "out", "--fields=caption,embedding") / "README.md").read_text()
    assert "from streaming import StreamingDataset" in card
    assert "| `image` | bytes |" in card
    assert "| `embedding` | ndarray:float16:" in card
    assert json.loads((tmp_path / "out" / "croissant.json").read_text())["distribution"][0]["includes"] == "[0-9]*.mds"
