from paddle_xc2.families.config import XComposer2Config
from paddle_xc2.training.memory import expected_memory


def test_memory_of_seven_billion_parameters(samples, plan_of):
    config = XComposer2Config()
    sizes = {"language model": (7_000_000_000, 7_000_000_000), "ViT": (0, 300_000_000)}
    plain = expected_memory(plan_of(samples, precision="bfloat16"), config, sizes)
    assert plain["weights"] == 7.3e9 * 4 and plain["gradients"] == 7e9 * 4 and plain["optimizer"] == 7e9 * 8
    cast = expected_memory(plan_of(samples, precision="bfloat16", fp16_opt_level="O2"), config, sizes)
    assert cast["weights"] == 7e9 * 6 + 0.3e9 * 2 and cast["gradients"] == 7e9 * 4 and cast["optimizer"] == 7e9 * 8
    keys = {"precision": "bfloat16", "fp16_opt_level": "O2", "recompute": True}
    assert expected_memory(plan_of(samples, **keys), config, sizes)["weights"] == 7e9 * 4 + 0.3e9 * 2
    again = expected_memory(plan_of(samples, precision="bfloat16", recompute=True), config, sizes)
    assert again["activations"] < plain["activations"] / 5
