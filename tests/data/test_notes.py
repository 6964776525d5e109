from paddle_xc2.data.notes import MANY_KINDS, Notes


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


def test_kinds_without_number_take_no_memory():
    notes = Notes()
    for index in range(150):
        notes.add(f"kind {index}", "a[0]")
    notes.add("kind 7", "a[0]")
    assert len(notes) == 101 and [note.count for note in notes if note.kind in ("kind 7", MANY_KINDS)] == [2, 50]
