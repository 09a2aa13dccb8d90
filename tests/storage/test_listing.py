import os
import re
import sys

import boto3
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils import retry

from beam_curate.commands import pack
from beam_curate.storage import schemes
from beam_curate.storage.listing import InputError, list_shards, spelled, split_patterns
from beam_curate.storage.schemes import SchemeError, check_scheme


@pytest.fixture
def shards(tmp_path):
    for name in ("00000.tar", "00001.tar", "00002.tar.gz", "other.txt.tar"):
        (tmp_path / name).write_bytes(b"x" * 7)
    return tmp_path


def names(spec):
    return [shard.path.rsplit("/", 1)[1] for shard in list_shards(spec)]


def test_glob_braces_and_comma_list(shards):
    assert names(f"{shards}/0*.tar") == ["00000.tar", "00001.tar"]
    assert names(f"{shards}/{{00000..00001}}.tar") == ["00000.tar", "00001.tar"]
    assert names(f"{shards}/00002.tar.gz,{shards}/00000.tar") == ["00000.tar", "00002.tar.gz"]
    assert split_patterns("a{0,1}.tar, b.tar") == ["a0.tar", "a1.tar", "b.tar"]


def test_file_of_paths(shards):
    listing = shards / "shards.txt"
    listing.write_text(f"# comment\n\n{shards}/00001.tar\n{shards}/{{00000..00001}}.tar\n{shards}/*.gz\n")
    assert names(str(listing)) == ["00000.tar", "00001.tar", "00002.tar.gz"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_of_paths_may_begin_with_a_byte_order_mark(shards, encoding):
    """As editors and the shell of Windows write it."""
    listing = shards / "shards.txt"
    listing.write_text(f"{shards}/00001.tar\r\n", encoding)
    assert names(str(listing)) == ["00001.tar"]


def test_a_folder_is_not_taken_for_a_shard(shards):
    with pytest.raises(InputError, match=rf"`input` '{shards}' is a folder; give the shards in it: '{shards}/\*\.tar'"):
        list_shards(str(shards))


def test_sizes_and_indexes(shards):
    assert [(shard.index, shard.size) for shard in list_shards(f"{shards}/*.tar")] == [(0, 7), (1, 7), (2, 7)]


def test_many_names_in_one_folder(shards):
    for number in range(10, 40):
        (shards / f"{number:05d}.tar").write_bytes(b"")
    assert len(names(f"{shards}/{{00010..00039}}.tar")) == 30
    with pytest.raises(InputError, match=r"00040\.tar.*and 7 more"):
        list_shards(f"{shards}/{{00010..00049}}.tar")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{root}/00009.tar", r"do not exist: .*00009\.tar"),
        ("{root}/nothing*.tar", "matches no file"),
        ("{root}/a{{0..1.tar", "close the brace"),
        ("{root}/missing.txt", "list of shards cannot be read"),
        (" , ", "names no shard"),
    ],
)
def test_errors_name_the_input(shards, spec, message):
    with pytest.raises(InputError, match=message):
        list_shards(spec.format(root=shards))


def test_a_file_of_paths_in_another_encoding_is_refused(shards):
    (shards / "shards.txt").write_bytes(b"caf\xe9.tar")
    with pytest.raises(InputError, match="list of shards cannot be read"):
        list_shards(f"{shards}/shards.txt")


ODD = ["with space.tar", "pct%2F.tar", "hash#1.tar", "q?.tar", "star*.tar", "bra[1].tar", "back\\slash.tar", "\u00fcn\u00ef.tar",
       "!.tar", "open[.tar", "tilde~.tar"]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_every_file_can_be_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "other.tar").write_bytes(b"y")
    assert names(f"{tmp_path}/{name}") == [name]
    listing = tmp_path / "list.txt"
    listing.write_text(f"{tmp_path}/{name}\n{tmp_path}/other.tar\n")
    assert names(str(listing)) == sorted([name, "other.tar"])
    assert names(f"{tmp_path}/*.tar") == sorted([name, "other.tar"])


@pytest.mark.parametrize("folder", ["plain", "a,b", "{1}", "a}b,{", "x[1],y", "back\\\\,slash", "*?"])
def test_a_backslash_makes_a_comma_or_a_brace_a_part_of_a_name(tmp_path, folder):
    (tmp_path / folder).mkdir()
    for name in ("0,1.tar", "2.tar", "{3}.tar"):
        (tmp_path / folder / name).write_bytes(b"x")
    root = spelled(f"{tmp_path}/{folder}")
    assert names(f"{root}/*.tar") == ["0,1.tar", "2.tar", "{3}.tar"]
    assert names(f"{root}/0\\,1.tar, {root}/\\{{3\\}}.tar") == ["0,1.tar", "{3}.tar"]
    assert names(f"{root}/{{0\\,1,2}}.tar") == ["0,1.tar", "2.tar"]
    (tmp_path / "list.txt").write_text(f"{root}/0\\,1.tar\n")
    assert names(f"{tmp_path}/list.txt") == ["0,1.tar"]


def test_a_name_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"x")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.tar", "wb") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"caf\\udce9\.tar', which is not UTF-8, so no table can hold it; rename it"):
        list_shards(f"{tmp_path}/*.tar")


def test_braces_may_hold_braces():
    assert split_patterns("{a,{b,c}}.tar,d") == ["a.tar", "b.tar", "c.tar", "d"]


def test_many_names_in_a_folder_with_a_bracket(tmp_path):
    (tmp_path / "a[1]").mkdir()
    for number in range(20):
        (tmp_path / "a[1]" / f"{number:05d}.tar").write_bytes(b"")
    assert len(names(f"{tmp_path}/a[1]/{{00000..00019}}.tar")) == 20


def test_a_pattern_wins_over_a_name_that_looks_like_one(tmp_path):
    for name in ("bra1.tar", "bra[1].tar"):
        (tmp_path / name).write_bytes(b"x")
    assert names(f"{tmp_path}/bra[1].tar") == ["bra1.tar"]
    assert names(f"{tmp_path}/bra[[]1].tar") == ["bra[1].tar"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.tar", ["1.tar", "a.tar"]),
        ("?.tar", ["1.tar", "a.tar"]),
        ("[0-9].tar", ["1.tar"]),
        ("[!0-9].tar", ["a.tar"]),
        ("[^a].tar", ["a.tar"]),
        ("*/*.tar", ["b.tar"]),
        ("**.tar", ["1.tar", "a.tar", "b.tar", "c.tar"]),
        ("d?b.tar", None),
        ("d[/]b.tar", None),
    ],
)
def test_what_patterns_mean(pattern, wanted, tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True)
    for name in ("a.tar", "1.tar", "d/b.tar", "d/e/c.tar"):
        (tmp_path / name).write_bytes(b"x")
    if wanted is None:
        with pytest.raises(InputError, match="matches no file"):
            names(f"{tmp_path}/{pattern}")
    else:
        assert sorted(names(f"{tmp_path}/{pattern}")) == wanted


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("hf://datasets/a/b/*.tar", "hf download NAME --repo-type dataset"),
        ("https://a.b/c.tar", "curl -O"),
        ("http://a.b/c.tar", "curl -O"),
        ("ftp://a.b/c.tar", "curl -O"),
        ("file:///a/b.tar", "without file://"),
        ("s3a://b/c.tar", "write s3://"),
        ("S3://b/c.tar", "write s3:// in lower case"),
        ("gcs://b/c.tar", "write gs://"),
        ("r2://b/c.tar", "--s3_endpoint_url"),
        ("abfs://b/c.tar", "Azure is not supported"),
        ("foo://b/c.tar", "gs:// and s3:// are"),
    ],
)
def test_an_unknown_scheme_says_what_helps(url, remedy, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text(url)
    for spec in (url, str(listing)):
        with pytest.raises(InputError, match=re.escape(url)) as caught:
            list_shards(spec)
        assert remedy in str(caught.value)
        assert "pip install" not in str(caught.value)


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    """boto3 finds nothing to sign a request with; a pause of Beam's retries is an error."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3.session, "Session", boto3.Session)  # the emulated stores put another in its place
    monkeypatch.setattr(retry.Clock, "sleep", lambda self, seconds: pytest.fail(f"a pause of {seconds} s"))
    schemes._session.cache_clear()
    yield
    schemes._session.cache_clear()
    FileSystems.set_options(None)


@pytest.mark.parametrize("name", ["s3", "gs", "hdfs", "http", "file"])
def test_a_local_folder_may_have_the_name_of_a_scheme(name):
    check_scheme(name)
    check_scheme(f"{name}/")


@pytest.mark.parametrize("spec", ["s3://bucket/*.tar", "s3://bucket/a.tar", "s3://bucket/list.txt"])
def test_s3_without_credentials_is_refused_at_once(spec, no_credentials):
    FileSystems.set_options(PipelineOptions([]))
    with pytest.raises(InputError, match="found no credentials for S3; set AWS_ACCESS_KEY_ID"):
        list_shards(spec)


def test_credentials_of_the_environment_or_of_the_options_are_found(no_credentials, monkeypatch):
    FileSystems.set_options(PipelineOptions(["--s3_access_key_id=a", "--s3_secret_access_key=b"]))
    check_scheme("s3://bucket/a.tar")
    FileSystems.set_options(PipelineOptions([]))
    with pytest.raises(SchemeError, match="no credentials"):
        check_scheme("s3://bucket/a.tar")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    check_scheme("s3://bucket/a.tar")


@pytest.mark.parametrize("keys", [[], ["--s3_access_key_id=a", "--s3_secret_access_key=b"]])
def test_s3_without_its_package_is_one_line_with_the_remedy(keys, no_credentials, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "boto3", None)  # as where it is not installed
    assert pack.main(["--input=s3://bucket/there", f"--output={tmp_path / 'out'}", *keys]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --input s3://bucket/there: s3:// needs boto3: pip install 'beam-curate[s3]'")
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--input", "--output"])
def test_a_command_without_credentials_for_s3_names_the_option(option, no_credentials, capsys, tmp_path):
    places = {"--input": str(tmp_path), "--output": str(tmp_path / "out"), option: "s3://bucket/there"}
    assert pack.main([word for pair in places.items() for word in pair]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: {option} s3://bucket/there: found no credentials for S3; set AWS_"
    )


def test_the_working_folder_is_no_pattern(tmp_path, monkeypatch):
    folder = tmp_path / "a [x]*?{b,c}"
    (folder / "in").mkdir(parents=True)
    (tmp_path / "a x").mkdir()
    for name in ("in/0.tar", "in/1[2].tar", "../a x/no.tar"):
        (folder / name).write_bytes(b"x")
    monkeypatch.chdir(folder)
    assert [shard.path for shard in list_shards("in/*.tar")] == [f"{folder}/in/0.tar", f"{folder}/in/1[2].tar"]
    assert [shard.path for shard in list_shards("in/1[2].tar")] == [f"{folder}/in/1[2].tar"]
    assert [shard.path for shard in list_shards("../a x/*.tar")] == [f"{tmp_path}/a x/no.tar"]
    with pytest.raises(InputError, match="matches no file") as caught:
        list_shards("in/*.tgz")
    assert f"{folder}/in/*.tgz" in str(caught.value)
