import os

import pytest

from beam_curate.intake.files import (
    ALONE,
    HIDDEN,
    NO_TEXT,
    OTHER,
    SPECIAL,
    TABLE,
    UNREAD,
    Place,
    alone,
    base_of,
    class_of,
    joined,
    look,
)
from beam_curate.intake.images import CannotPackError, Images
from beam_curate.intake.reasons import MISSING_FILE
from beam_curate.transforms.list_images import _by_key


def tree(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return str(folder)


def entries(place, base="", **more):
    files = [file for file in look(place, base or place.folder, ("txt", "json")) if not file.skipped]
    groups = list(_by_key(files))
    return sorted((each for group in groups for each in joined(group, **more)), key=lambda each: each.order), groups


def test_an_image_and_what_lies_beside_it_are_one_sample(tmp_path):
    folder = tree(tmp_path, "a.jpg", "a.txt", "a.JSON", "sub/b.v2.PNG", "sub/b.v2.txt", "sub/b.txt")
    rows, groups = entries(Place(folder))
    assert [(row.key, row.suffix, sorted(row.beside)) for row in rows] == [
        ("a", "jpg", ["JSON", "txt"]), ("sub/b~2e~v2", "PNG", ["txt"])
    ]  # fmt: skip
    assert rows[0].size == 5
    assert sum(map(alone, groups)) == 1  # sub/b.txt


def test_a_second_image_of_a_name_is_a_failed_row(tmp_path):
    rows, _ = entries(Place(tree(tmp_path, "a.jpg", "a.png", "a~2e~b.jpg", "a.b.jpg", "a.txt")))
    assert [(os.path.basename(row.source), row.failure and row.failure.reason) for row in rows] == [
        ("a.b.jpg", None), ("a.jpg", None), ("a.png", "duplicate_key"), ("a~2e~b.jpg", "duplicate_key")
    ]  # fmt: skip
    assert str(tmp_path / "a.jpg") in rows[2].failure.message


def test_files_beside_an_image_whose_extensions_differ_in_case_alone_are_a_failed_row(tmp_path):
    """WebDataset lower-cases extensions: its reader raises at the second one, and the rest of the shard is not read."""
    rows, groups = entries(Place(tree(tmp_path, "a.jpg", "a.txt", "a.TXT", "a.json", "b.jpg", "b.TXT", "b.Json")))
    assert [(row.key, row.failure and row.failure.reason) for row in rows] == [("a", "duplicate_member"), ("b", None)]
    assert all(str(tmp_path / name) in rows[0].failure.message for name in ("a.txt", "a.TXT"))
    assert sum(map(alone, groups)) == 0


def test_what_is_no_row_is_counted(tmp_path):
    folder = tree(
        tmp_path, "a.jpg", ".b.jpg", "d/._c.jpg", "d/IMG_1.HEIC", "raw.nef", "x.py", "noext", "z.txt", "metadata.csv"
    )
    os.symlink(folder, tmp_path / "loop")  # back to the folder itself: nothing is found twice
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.jpg")  # who opens it waits for ever
    found = {file.skipped: file.size for file in look(Place(folder), folder, ("txt",)) if file.skipped}
    assert found == {UNREAD: 2, HIDDEN: 2, OTHER: 2, TABLE: 1, NO_TEXT: 1, SPECIAL: 1}
    assert ALONE not in found  # known when the files have met


def test_of_what_a_glob_does_not_match_nothing_is_counted(tmp_path):
    tree(tmp_path, "a.jpg", "b.png", ".c.jpg", "x.py", "metadata.csv")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    place = Place.of(f"{tmp_path}/*.jpg")
    found = list(look(place, place.folder, ("txt",)))
    assert [file.stem for file in found if not file.skipped] == ["a"]
    assert {file.skipped: file.size for file in found if file.skipped} == {SPECIAL: 1}  # which does match


def test_a_link_that_leads_nowhere_is_a_row(tmp_path):
    """Of an image, or of a caption: what it stood for is missing from the dataset."""
    folder = tree(tmp_path, "b.jpg")
    (tmp_path / "a.jpg").symlink_to("/nowhere.jpg")
    (tmp_path / "b.txt").symlink_to("/nowhere.txt")
    rows, _ = entries(Place(folder))
    assert [row.key for row in rows] == ["a", "b"]
    images = Images(1 << 20)
    for row, missing in zip(rows, ("a.jpg", "b.txt"), strict=True):
        with pytest.raises(CannotPackError, match=missing) as caught:
            images.read(row, "")
            images.beside(row.beside["txt"])
        assert caught.value.reason == MISSING_FILE


@pytest.mark.parametrize("name", ["pipe.jpg", "folder.jpg", "gone.jpg", "loop.jpg", "nul\0.jpg", f"{300 * 'x'}.jpg"])
def test_what_a_table_names_and_is_no_file_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(CannotPackError, match="there is no file") as caught:
        Images(1 << 20).file(f"{tmp_path}/{name}")
    assert caught.value.reason == MISSING_FILE


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("*.jpg", ["a"]),
        ("**/*.jpg", ["d/b"]),
        ("**.jpg", ["a", "d/b"]),
        ("d/*", ["b", "c"]),
        ("[a-c].jpg", ["a"]),
        ("**.gif", []),
    ],
)
def test_globs_choose_images_and_take_along_what_lies_beside(tmp_path, pattern, keys):
    tree(tmp_path, "a.jpg", "a.txt", "d/b.jpg", "d/b.txt", "d/c.png")
    rows, _ = entries(Place.of(f"{tmp_path}/{pattern}"))
    assert [row.key for row in rows] == keys
    assert all("txt" in row.beside for row in rows if row.key[-1] in "ab")


def test_several_folders_share_the_one_that_they_lie_in():
    assert base_of([Place("/x/a"), Place("/x/b/c")]) == "/x"
    assert base_of([Place("/x/a")]) == "/x/a"
    assert base_of([Place("gs://b/x"), Place("gs://b/xy")]) == "gs://b"
    assert base_of([Place("/a"), Place("/b")]) == "/"


def test_class_folders(tmp_path):
    rows, _ = entries(Place(tree(tmp_path, "dog/x/1.jpg", "cat/1.jpg", "cat/1.json", "0.jpg")), class_folders=True)
    rows = [class_of(row, ["cat", "dog"]) for row in rows]
    assert [(row.key, row.texts, row.failure and row.failure.reason) for row in rows] == [
        ("0", {}, "no_class"), ("cat/1", {"cls": "0"}, None),
        ("dog/x/1", {"cls": "1", "json": '{"class": "dog", "class_index": 1}'}, None),
    ]  # fmt: skip
