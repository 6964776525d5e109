"""One byte flipped and the end cut off, wherever it may be: what every reader of weights has to withstand."""

from hypothesis import strategies as st


def check_damaged(data, whole: bytes, path, read) -> None:
    """Writes a damaged file to `path` and reads it: tensors that can be read, or one message that names the file.

    Args:
        data: of hypothesis, that draws the damage.
        read: path -> {name: LazyTensor}.
    """
    content = bytearray(whole)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path.write_bytes(content[:cut])
    try:
        for found in read(path).values():
            assert found.read().shape == found.shape
    except ValueError as error:
        assert str(path) in str(error)
