"""Reference values and the models that they belong to."""

import pytest

from tests.golden import Golden


@pytest.fixture(scope="session")
def golden():
    """Reference values of the 7b family that stand in the repository."""
    return Golden()


@pytest.fixture(scope="session", params=["xc2_7b", "xc2_vl_7b"])
def full_golden(request, shared):
    """All reference values of a family; skips where the reference material is absent."""
    return Golden(shared / "goldens" / request.param)


@pytest.fixture(scope="session")
def golden_checkpoint(golden, tmp_path_factory):
    """The directory of the checkpoint that `golden` was computed with."""
    return golden.checkpoint(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def golden_model(golden_checkpoint):
    """That checkpoint as a model in evaluation mode. All tests share it: change neither weights nor settings."""
    from paddle_xc2 import XComposer2ForCausalLM

    model = XComposer2ForCausalLM.from_pretrained(golden_checkpoint, dtype="float32")
    model.eval()
    return model
