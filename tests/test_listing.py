import pytest

from beam_curate.storage.listing import InputError, list_shards, split_patterns


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
    with pytest.raises(InputError, match=rf"--input '{shards}' is a folder; give the shards in it: '{shards}/\*\.tar'"):
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
