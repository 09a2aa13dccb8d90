import pytest

from beam_curate.texts import decode_text


@pytest.mark.parametrize("text", ["", "a", "a dog", "ein Bär", "犬の写真", "\U0001f600 a"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_byte_order_mark_says_how_a_text_is_encoded(text, encoding):
    data = ("\ufeff" + text).encode(encoding)
    assert decode_text(data) == decode_text(data, "strict") == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_without_a_mark_the_zeros_of_its_beginning_say_it(encoding):
    assert decode_text("a dog, ein Bär".encode(encoding)) == "a dog, ein Bär"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("un café".encode("latin-1"), "un caf\ufffd"),
        (b"a\0b", "a\0b"),  # three bytes are no UTF-16
        (b"a\0b\0\0\0", "a\0b\0\0\0"),  # nor is a text with NULs in it
        (b"\0\0\0\0", "\0\0\0\0"),
        (b"a\0\0\xd8", "a\0\0\ufffd"),  # half a surrogate pair
        (b"\xff\xfea\0b", "a\ufffd"),
        (b"\xff\xfe\0\xd8", "\ufffd"),
        (b"\xef\xbb", "\ufffd"),
    ],
)
def test_what_the_bytes_do_not_say_is_not_guessed(data, text):
    assert decode_text(data) == text
    text.encode()


def test_strict():
    with pytest.raises(UnicodeDecodeError):
        decode_text("café".encode("latin-1"), "strict")
