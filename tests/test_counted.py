from paddle_xc2.counted import counted


def test_one_and_several():
    assert [counted(number, "record") for number in (0, 1, 2, 1000)] == [
        *("0 records", "1 record", "2 records", "1,000 records"),
    ]  # fmt: skip
    assert [counted(number, "record is", "records are") for number in (1, 2)] == ["1 record is", "2 records are"]
