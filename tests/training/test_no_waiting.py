"""A step of training waits for nothing on the device, of several data sets neither."""

from paddle import nn

from paddle_xc2.models.dropout import Dropout
from paddle_xc2.training import log as module
from paddle_xc2.training.finetune import finetune
from paddle_xc2.training.trainer import StepTrainer
from tests.no_waiting import no_waiting


def test_a_step(config, workspace, monkeypatch):
    step, to_device, uploaded = StepTrainer.training_step, module.to_device, []

    def watched(self, model, inputs):
        places = [to_device(self.run_log.name_of_dataset[datasets], []) for datasets in inputs.token_datasets]

        def uploads(array, sources):  # as from page-locked memory
            uploaded.append(len(array))
            return places.pop(0)

        monkeypatch.setattr(module, "to_device", uploads)
        if not self.state.global_step:  # tables are made once
            return step(self, model, inputs)
        with no_waiting():
            return step(self, model, inputs)

    monkeypatch.setattr(StepTrainer, "training_step", watched)
    monkeypatch.setattr(Dropout, "forward", nn.Dropout.forward)  # as on a GPU: a CPU's own numbers are the host's
    data = {"train": [{"name": name, "data_files": str(workspace / f"{name}.json")} for name in ("train", "eval")]}
    assert finetune(config(dataset=data, max_steps=2)) == 0
    assert len(uploaded) == 4  # two batches a step
