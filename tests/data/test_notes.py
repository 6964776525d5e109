from paddle_xc2.data.notes import Notes


def test_counted_by_kind_with_the_first_place():
    notes = Notes()
    notes.add("colon", "a[3]")
    notes.add("python", "a[4]")
    notes.add("colon", "a[5]", 2)
    other = Notes()
    other.update(notes)
    other.update(notes)
    assert [str(note) for note in other] == ["6 x colon (first: a[3])", "2 x python (first: a[4])"]
    assert len(notes) == 2 and not Notes()
