import json
import math

from paddle_xc2.training.metrics_file import MetricsFile, best_evaluation

TRAINED = {"step": 1, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-4, "tokens_per_second": 300.0}


def test_file_is_appended_to_and_begun_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("of an earlier run\n")
    file = MetricsFile(tmp_path)
    file.append(TRAINED)
    file.append({"step": 1, "eval_loss": 3.0})
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == file.entries
    assert file.entries == [TRAINED, {"step": 1, "eval_loss": 3.0}]


def test_going_on_cuts_what_came_after_the_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    file = MetricsFile(tmp_path)
    file.append(TRAINED)
    file.save_copy(checkpoint)
    file.append({**TRAINED, "step": 2})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')  # killed while it wrote
    assert MetricsFile(tmp_path, checkpoint).entries == [TRAINED]
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [json.dumps(TRAINED)]


def test_best_of_evaluations():
    entries = [{"step": 1, "loss": 0.1}, *({"step": step, "eval_loss": loss} for step, loss in ((2, 3.0), (4, 2.0)))]
    entries += [{"step": 6, "eval_loss": 2.0}, {"step": 8, "eval_loss": math.nan}]
    assert best_evaluation(entries, "eval_loss", greater=False)["step"] == 4
    assert best_evaluation(entries, "eval_loss", greater=True)["step"] == 2
    assert best_evaluation(entries, "eval_bleu", greater=True) is None


def test_of_equally_good_evaluations_the_loss_decides():
    """As where no answer is exact yet: else the first state of all would be the best."""
    values = ((2, 0.0, 3.0), (4, 0.0, 1.0), (6, 0.0, 1.0), (8, 0.0, None))
    entries = [{"step": step, "eval_exact_match": score, "eval_loss": loss} for step, score, loss in values]
    assert best_evaluation(entries, "eval_exact_match", greater=True)["step"] == 4
    entries.append({"step": 10, "eval_exact_match": 0.1, "eval_loss": 9.0})
    assert best_evaluation(entries, "eval_exact_match", greater=True)["step"] == 10
