from paddle_xc2.training.progress import Progress

TRAINED = {"step": 1, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-4, "tokens_per_second": 300.0}


def test_lines(capsys):
    progress = Progress(10, 0, lines=True)
    progress.step()
    progress.logged(TRAINED)
    progress.logged({"step": 1, "eval_loss": 3.0})
    progress.logged({"step": 1, "eval_loss": 3.0, "eval_answers": 5, "eval_exact_match": 0.2, "eval_bleu": 0.5})
    progress.close()
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "step 1/10  epoch 0.50  loss 2.0000  lr 1.00e-04  300 tokens/s",
        "step 1/10  evaluation loss 3.0000",
        "step 1/10  evaluation loss 3.0000, exact_match 0.2000, bleu 0.5000",
    ]
    assert told.err == ""


def test_bar(capsys):
    progress = Progress(10, 4, lines=False)
    progress.step()
    progress.logged(TRAINED)
    progress.say("checkpoint")
    progress.close()
    told = capsys.readouterr()
    assert told.out == "checkpoint\n"
    assert "training" in told.err and "5/10" in told.err and "loss 2.0000" in told.err


def test_bar_within_the_bar(capsys):
    assert list(Progress(10, 4, lines=False).over(iter("abc"), 3, "answering")) == ["a", "b", "c"]
    assert "answering" in capsys.readouterr().err
    assert list(Progress(10, 4, lines=True).over(iter("abc"), 3, "answering")) == ["a", "b", "c"]
    assert "answering" not in capsys.readouterr().err


def test_skipped_steps_are_shown(capsys):
    progress = Progress(10, 0, lines=True)
    progress.logged({**TRAINED, "loss": None, "skipped_steps": 1})
    progress.logged({"step": 3, "eval_loss": None})
    shown = capsys.readouterr().out
    assert "loss not finite (1 step skipped)  lr" in shown and "evaluation loss not finite" in shown


def test_silent(capsys):
    progress = Progress(10, 0, lines=True, silent=True)
    progress.logged(TRAINED)
    progress.say("nothing")
    assert capsys.readouterr().out == ""
