from dataclasses import replace

from paddle_xc2.training.run_folder.sample_contents import describe_changes, write_sample_contents


def test_changed_samples_are_named(samples, workspace, tmp_path):
    assert describe_changes(tmp_path, samples) == ""  # of an earlier version
    write_sample_contents(tmp_path, samples)
    assert describe_changes(tmp_path, samples) == ""
    other = samples.content_of.copy()
    other[[1, 4], [0, 1]] += 1
    other[:, 0] += 0
    data = workspace / "train.json"
    assert describe_changes(tmp_path, replace(samples, content_of=other)) == (
        f"other pictures in {data}[1] (1_0.png), other tokens in {data}[4]"
    )
    other[:, 1] += 1
    named = describe_changes(tmp_path, replace(samples, content_of=other))
    assert named.endswith(f"other tokens in {', '.join(f'{data}[{i}]' for i in range(5))} and 8 more")
    assert describe_changes(tmp_path, replace(samples, content_of=other[1:])) == ""
