from types import SimpleNamespace

from paddle_xc2.training.early_end import describe_early_end


def test_how_several_processes_go_on(tmp_path):
    checkpoint = tmp_path / "checkpoint-4"
    trainer = SimpleNamespace(
        state=SimpleNamespace(global_step=4), plan=SimpleNamespace(num_steps=8, num_processes=2),
        last_checkpoint=checkpoint, output_dir=tmp_path,
    )  # fmt: skip
    told = describe_early_end(trainer, "stopped by SIGTERM", "sft.json", [])
    assert told.endswith(f"is {checkpoint}; go on with: the same 2 processes and --resume_from_checkpoint auto")
