"""The main job as a user runs it: `main(argv)` end to end, read back by the tools that read such datasets."""

import json
import re
import subprocess
import sys
import tarfile

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from beam_curate.commands import curate
from beam_curate.commands.demo_data import build_demo_dataset
from beam_curate.transforms import decode_images, write_score_table
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.support.models import MODEL, SMALL

REAL = ["--clip_model=ViT-S-32-alt", "--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo dataset, curated once."""
    folder = tmp_path_factory.mktemp("curate")
    dataset = build_demo_dataset(folder / "data")
    arguments = [f"--input={dataset.pattern}", f"--output={folder / 'out'}", *MODEL, "--min_aesthetic=4.5"]
    arguments += ["--min_side=64", "--samples_per_shard=10"]
    assert curate.main(arguments) == 0
    return dataset, folder / "out", arguments


def source_members(dataset):
    """Key → extension → bytes of the source; the first sample of a key only, as the duplicates fail."""
    found = {}
    for path in dataset.shards:
        with tarfile.open(path) as archive:
            for info in archive:
                key, _, suffix = info.name.partition(".")
                found.setdefault(key, {}).setdefault(suffix, archive.extractfile(info).read())
    return found


def test_the_demo_adds_up(demo):
    dataset, output, _ = demo
    funnel = json.loads((output / "summary.json").read_text())["funnel"]
    assert funnel["input"] == dataset.samples == funnel["kept"] + funnel["rejected"] + funnel["failed"]
    assert {name: funnel["reasons"][name] for name in dataset.failures} == dataset.failures
    assert funnel["reasons"]["side_below_min"] == dataset.too_small
    assert funnel["kept"] > 10
    rows = pq.read_table(output / "scores").to_pylist()
    assert len(rows) == dataset.samples
    assert {row["reason"] for row in rows if row["status"] == "failed"} == set(dataset.failures)


def test_the_summary_says_that_random_scores_are_meaningless(demo):
    summary = json.loads((demo[1] / "summary.json").read_text())
    assert summary["scores_meaningless"] is True
    assert summary["random"] == ["CLIP weights", "aesthetic head", "nsfw head"]


def kept_keys(output):
    rows = pq.read_table(output / "scores", columns=["key", "status"]).to_pylist()
    return [row["key"] for row in rows if row["status"] == "kept"]


def test_reads_back_with_webdataset(demo):
    import webdataset

    dataset, output, _ = demo
    source = source_members(dataset)
    urls = [str(path) for path in sorted(output.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == kept_keys(output)
    for sample in samples:
        members = {name: data for name, data in sample.items() if not name.startswith("__")}
        assert members == {suffix.lower(): data for suffix, data in source[sample["__key__"]].items()}


def test_members_keep_the_case_of_their_names(demo):
    dataset, output, _ = demo
    upper = {name for path in dataset.shards for name in tarfile.open(path).getnames() if name.endswith(".JPG")}
    written = {name for path in output.glob("*.tar") for name in tarfile.open(path).getnames()}
    kept = set(kept_keys(output))
    assert {name for name in upper if name.partition(".")[0] in kept} <= written


def test_reads_back_with_wids(demo):
    import wids

    _, output, _ = demo
    dataset = wids.ShardListDataset(str(output / "index.json"), base=str(output), cache_dir=str(output.parent / "wids"))
    assert len(dataset) == len(kept_keys(output))
    assert dataset[11]["__key__"] == kept_keys(output)[11]


def test_reads_back_with_datasets(demo, tmp_path):
    import datasets

    _, output, _ = demo
    files = [str(path) for path in sorted(output.glob("*.tar"))][:1]
    found = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path))
    assert found["__key__"] == kept_keys(output)[: len(found)]
    assert len(found) == 10


def test_a_run_is_refused_continued_or_replaced(demo, capsys):
    _, output, arguments = demo
    before = {path.name: path.read_bytes() for path in output.glob("*.tar")}
    assert curate.main(arguments) == 2
    assert "holds a run already; continue it with --resume or replace it with --overwrite" in capsys.readouterr().err
    assert curate.main([*arguments, "--resume"]) == 0
    assert "complete already" in capsys.readouterr().out
    changed = [word for word in arguments if not word.startswith("--min_side")]
    assert curate.main([*changed, "--resume"]) == 2
    assert "min_side was 64 and is None now" in capsys.readouterr().err
    assert curate.main([*arguments, "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in output.glob("*.tar")} == before


def test_resume_scores_only_what_is_missing(demo, capsys, monkeypatch):
    from beam_curate.tars import samples
    from beam_curate.transforms import read_tar_shards

    dataset, output, arguments = demo
    before = {path.name: path.read_bytes() for path in output.glob("0*")}
    for path in [*output.glob("0*"), output / "summary.json", output / "scores" / "part-00001.parquet"]:
        path.unlink()
    read = []

    def watched(stream, shard, **options):
        read.append(shard.path)
        return samples.read_samples(stream, shard, **options)

    monkeypatch.setattr(read_tar_shards, "read_samples", watched)
    assert curate.main([*arguments, "--resume"]) == 0
    assert read == [str(dataset.shards[1].absolute())]
    assert {path.name: path.read_bytes() for path in output.glob("0*")} == before


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([("1.jpg", encoded(photo(1))), ("2.jpg", encoded(photo(2)))]))
    save_file({"visual.x": torch.ones(1)}, tmp_path / "mine.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples_per_shard=0"], "--samples_per_shard is 0; give at least 1"),
        (["--batch_size=many"], "argument --batch_size: invalid int value: 'many'"),
        (["--min_aesthetic=high"], "argument --min_aesthetic: invalid float (or none) value: 'high'"),
        (["b.tar"], "'b.tar' belongs to no option; put a pattern into quotes"),
        (["--runner", "FnApiRunner", "b.tar", "--streaming"], "'b.tar' belongs to no option"),
        (["--output="], "--output is empty; give a value"),
        (["--min_asthetic=5"], "unknown option --min_asthetic; did you mean --min_aesthetic"),
        (["--decoder=magic"], "argument --decoder: invalid choice: 'magic'"),
        (["--clip_model=ViT-L-15"], "'ViT-L-15' is not an open_clip model: did you mean"),
        (["--pretrained=nothing"], "'nothing' is neither a pretrained tag"),
        (["--aesthetic_head=none", "--min_aesthetic=5"], "--min_aesthetic 5.0 needs the aesthetic score"),
        (["--aesthetic_head=missing.pth"], "--aesthetic_head 'missing.pth' is not a file"),
        (["--input={root}/none*.tar"], "matches no file"),
        (["--resume"], "holds no run"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--max_pixels=0"], "--max_pixels is 0"),
        (["--device=cuda"], "cuda"),
        (["--device=cpu", "--precision=fp16"], "--precision fp16 with --device cpu"),
        (["--quick_gelu=maybe"], "argument --quick_gelu: invalid choice: 'maybe'"),
        (["--clip_model=ViT-L-14", "--pretrained={root}/mine.safetensors"], "give --quick_gelu yes"),
        (["--pretrained={root}/mine.safetensors"], "give --preprocess"),
        (["--preprocess=opena"], "--preprocess 'opena' is neither a pretrained tag (did you mean 'openai'?)"),
        (["--preprocess={root}/none.json"], "there is no such file"),
        (["--preprocess=std=0"], "one number above 0"),
    ],
)
def test_a_wrong_option_is_one_line_and_no_work(tiny, capsys, arguments, message):
    base = [f"--input={tiny}/a.tar", f"--output={tiny}/out", *MODEL]
    assert curate.main(base + [word.format(root=tiny) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tiny / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("more", [[], ["--precision=bf16", "--batch_size=2"]])
def test_a_gpu_that_only_its_driver_knows_is_one_line_and_no_work(tiny, monkeypatch, capsys, more):
    """A driver that is too old for torch's CUDA: it counts the GPU, and no model can be loaded there."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    base = [f"--input={tiny}/a.tar", f"--output={tiny}/out", *MODEL]
    assert curate.main([*base, "--device=cuda", *more]) == 2
    error = capsys.readouterr().err
    assert "--device cuda: " in error
    assert "can use 0 CUDA devices here: Found no NVIDIA driver on your system" in error
    assert error.count("\n") == 1
    assert not (tiny / "out").exists()


def test_a_head_of_another_width_is_refused(tiny, assets, capsys):
    head = assets / "heads" / "sac_logos_ava1-l14-linearMSE.safetensors"
    base = [f"--input={tiny}/a.tar", f"--output={tiny}/out", *MODEL, f"--aesthetic_head={head}"]
    assert curate.main(base) == 2
    assert re.search(rf"width 768.*{SMALL} are of width 256", capsys.readouterr().err)


def test_a_folder_with_other_files_is_refused(tiny, capsys):
    (tiny / "out").mkdir()
    (tiny / "out" / "thesis.txt").write_text("mine")
    for extra in ([], ["--overwrite"], ["--resume"]):
        assert curate.main([f"--input={tiny}/a.tar", f"--output={tiny}/out", *MODEL, *extra]) == 2
        assert "not empty and holds no run" in capsys.readouterr().err
    assert (tiny / "out" / "thesis.txt").read_text() == "mine"


def test_all_samples_failed_is_an_error(tmp_path, capsys):
    (tmp_path / "a.tar").write_bytes(tar_bytes([("1.jpg", b"no"), ("2.jpg", b"image")]))
    assert curate.main([f"--input={tmp_path}/a.tar", f"--output={tmp_path}/out", *MODEL]) == 1
    assert "all 2 samples failed" in capsys.readouterr().err


def test_scores_can_be_turned_off(tiny):
    arguments = [
        f"--input={tiny}/a.tar",
        f"--output={tiny}/out",
        *MODEL[:2],
        "--aesthetic_head=none",
        "--nsfw_head=none",
    ]
    assert curate.main(arguments) == 0
    table = pq.read_table(tiny / "out" / "scores")
    assert not {"aesthetic", "nsfw"} & set(table.schema.names)
    assert table.column("status").to_pylist() == ["kept", "kept"]


def test_direct_runner_and_help_from_the_shell(tiny):
    script = str(ROOT / "pipelines" / "curate.py")
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert "4.5 to 6.5" in shown.stdout
    arguments = [f"--input={tiny}/a.tar", f"--output={tiny}/out", *REAL, "--runner=DirectRunner"]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "images/s" not in done.stderr  # quiet when not a terminal
    assert "MEANINGLESS" in done.stdout


def test_retried_rows_at_the_start_of_a_shard_do_not_take_the_place_of_the_whole(tmp_path, capsys):
    """The first two rows of a shard are scored again; the others stay."""
    big, small = encoded(photo(5, 200, 150)), encoded(photo(6, 40, 30))
    members = [("0.jpg", big), ("1.jpg", big), *((f"{n}.jpg", small) for n in range(2, 6))]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    base = [f"--input={tmp_path}/a.tar", *MODEL, "--min_aesthetic=none", "--max_nsfw=none"]
    first = [*base, f"--output={tmp_path}/out"]
    assert curate.main([*first, "--max_pixels=20000"]) == 0
    assert curate.main([*first, "--max_pixels=100000", "--retry_failed=too_many_pixels"]) == 0
    funnel = json.loads((tmp_path / "out" / "summary.json").read_text())["funnel"]
    assert (funnel["input"], funnel["kept"]) == (6, 6)
    assert curate.main([*base, f"--output={tmp_path}/whole", "--max_pixels=100000"]) == 0
    name = "scores/part-00000.parquet"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    capsys.readouterr()
    assert curate.main([*first, "--max_pixels=100000", "--retry_failed=aesthetic_below_min"]) == 2
    assert "is not a reason for a failure" in capsys.readouterr().err


def test_a_damaged_shard_is_read_again_from_its_start(tmp_path):
    """A row that stands for a shard is replaced by all rows that a better copy gives."""
    whole = tar_bytes([(f"{n}.jpg", encoded(photo(n, 40, 30))) for n in range(4)])
    (tmp_path / "a.tar").write_bytes(bytes(len(whole)))
    (tmp_path / "b.tar").write_bytes(whole)
    flags = [f"--input={tmp_path}/?.tar", f"--output={tmp_path}/out", *MODEL, "--min_aesthetic=none", "--max_nsfw=none"]
    assert curate.main(flags) == 0
    (row, *_) = pq.read_table(tmp_path / "out" / "scores" / "part-00000.parquet").to_pylist()
    assert row["key"] == ""
    (tmp_path / "a.tar").write_bytes(whole)
    assert curate.main([*flags, f"--retry_failed={row['reason']}"]) == 0
    funnel = json.loads((tmp_path / "out" / "summary.json").read_text())["funnel"]
    assert (funnel["input"], funnel["kept"]) == (8, 8)


def test_retry_failed_writes_only_the_shards_again_whose_samples_changed(tmp_path):
    """The first shard's samples come of a source without failures: the file stays, and so does its plan."""
    small, big = encoded(photo(6, 40, 30)), encoded(photo(5, 200, 150))
    (tmp_path / "a.tar").write_bytes(tar_bytes([(f"{n}.jpg", small) for n in range(4)]))
    (tmp_path / "b.tar").write_bytes(tar_bytes([("5.jpg", small), ("6.jpg", big), ("7.jpg", small)]))
    flags = [f"--input={tmp_path}/?.tar", f"--output={tmp_path}/out", *MODEL, "--min_aesthetic=none",
             "--max_nsfw=none", "--samples_per_shard=2"]  # fmt: skip
    assert curate.main([*flags, "--max_pixels=20000"]) == 0
    times = [(tmp_path / "out" / f"0000{n}.tar").stat().st_mtime_ns for n in range(3)]
    assert curate.main([*flags, "--max_pixels=100000", "--retry_failed=too_many_pixels"]) == 0
    after = [(tmp_path / "out" / f"0000{n}.tar").stat().st_mtime_ns for n in range(4)]
    assert [was == now for was, now in zip(times, after, strict=False)] == [True, True, False]
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {f"0000{n}.tar": 2 - n // 3 for n in range(4)}


def test_retry_failed_deletes_the_shards_that_there_are_not_any_more(tmp_path):
    """Of a run whose table kept more before, by a rule on the whole table or by duplicates."""
    one, two = (tar_bytes([(f"{n}.jpg", encoded(photo(n, 40, 30)))]) for n in (0, 3))
    (tmp_path / "a.tar").write_bytes(two)
    (tmp_path / "b.tar").write_bytes(bytes(len(one)))
    flags = [f"--input={tmp_path}/?.tar", f"--output={tmp_path}/out", *MODEL, "--min_aesthetic=none",
             "--max_nsfw=none", "--samples_per_shard=1"]  # fmt: skip
    assert curate.main(flags) == 0
    for name in ("00005.tar", "00005.parquet", "00005_stats.json", "7.tar"):  # of a table that kept more
        (tmp_path / "out" / name).write_text("x")
    (row,) = pq.read_table(tmp_path / "out" / "scores" / "part-00001.parquet").to_pylist()
    (tmp_path / "b.tar").write_bytes(one)
    assert curate.main([*flags, f"--retry_failed={row['reason']}"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["00000.tar", "00001.tar", "7.tar"]
    assert not list((tmp_path / "out").glob("00005*"))


@pytest.mark.parametrize("then", [["--resume"], ["--retry_failed=corrupt_image"]])
def test_a_retry_that_was_stopped_goes_on_with_resume(tmp_path, monkeypatch, capsys, then):
    """The run is not complete before each sample of the reasons that were given has been tried."""
    big = [encoded(photo(n, 200, 150)) for n in range(3)]
    for n in range(3):
        (tmp_path / f"{n}.tar").write_bytes(tar_bytes([(f"{n}.jpg", big[n]), (f"{n}b.jpg", encoded(photo(9 + n)))]))
    command = [
        f"--input={tmp_path}/?.tar",
        *MODEL,
        "--min_aesthetic=none",
        "--max_nsfw=none",
        f"--output={tmp_path}/out",
    ]
    assert curate.main([*command, "--max_pixels=20000"]) == 0
    command.append("--max_pixels=100000")
    decoded, decode = [], decode_images.decode_sizes
    monkeypatch.setattr(decode_images, "decode_sizes", lambda data, *how: decoded.append(data) or decode(data, *how))
    written, write = [], write_score_table.write_part

    def once(*part, **more):
        written.append(part[1])
        if len(written) == 2:
            raise RuntimeError("stopped")
        return write(*part, **more)

    monkeypatch.setattr(write_score_table, "write_part", once)
    with pytest.raises(RuntimeError, match="stopped"):
        curate.main([*command, "--retry_failed=too_many_pixels"])
    left = [data for n, data in enumerate(big) if n != written[0]]
    decoded.clear()
    assert curate.main([*command, *then]) == 0
    assert sorted(decoded) == sorted(left)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["funnel"]["failed"] == 0
    # It has come to its end: a file that is made again is no reason to look for failed samples.
    assert "retry" not in json.loads((tmp_path / "out" / "run.json").read_text())
    assert curate.main([*command, "--resume"]) == 0
    assert sorted(decoded) == sorted(left)


def test_retry_failed_scores_only_those_samples_again(tmp_path, capsys, monkeypatch):
    """Two pictures are over the pixel limit at first; with a higher limit they alone are scored again."""
    big, small = encoded(photo(5, 200, 150)), encoded(photo(6, 40, 30))
    (tmp_path / "a.tar").write_bytes(tar_bytes([("1.jpg", big), ("2.jpg", small), ("3.jpg", b"no"), ("4.jpg", big)]))
    (tmp_path / "b.tar").write_bytes(tar_bytes([("5.jpg", small)]))
    base = [f"--input={tmp_path}/?.tar", *MODEL, "--min_aesthetic=none", "--max_nsfw=none"]
    first = [*base, f"--output={tmp_path}/out"]
    assert curate.main([*first, "--max_pixels=20000"]) == 0
    assert "too_many_pixels: 2" in capsys.readouterr().out
    untouched = (tmp_path / "out" / "scores" / "part-00001.parquet").stat().st_mtime_ns
    assert curate.main([*first, "--max_pixels=100000", "--retry_failed=odd"]) == 2
    assert "--retry_failed 'odd' is not a reason for a failure" in capsys.readouterr().err
    decoded, decode = [], decode_images.decode_sizes
    monkeypatch.setattr(decode_images, "decode_sizes", lambda data, *how: decoded.append(data) or decode(data, *how))
    assert curate.main([*first, "--max_pixels=100000", "--retry_failed=too_many_pixels,corrupt_image"]) == 0
    assert decoded == [big, big]
    monkeypatch.undo()
    assert "failed    1" in capsys.readouterr().out
    assert (tmp_path / "out" / "scores" / "part-00001.parquet").stat().st_mtime_ns == untouched
    assert curate.main([*base, f"--output={tmp_path}/whole", "--max_pixels=100000"]) == 0
    for path in sorted((tmp_path / "whole").glob("**/*.*")):
        if path.is_file() and path.name not in ("run.json", "summary.json", "report.html"):
            assert (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes(), (
                path.name
            )
