#!/bin/sh
# Writes requirements.lock anew: the newest versions that setup.py allows, for Python 3.10 to 3.12. Needs uv and a network.
# Afterwards: rm -rf .venv && sh tests/run.sh, with each of the three Pythons.
set -eu
cd "$(dirname "$0")/.."

# Required by PaddleNLP's metadata, but by nothing that is used here: its imports, training with VisualDL, LoRA and
# checkpoints were tried without. onnxoptimizer has no wheel for Python 3.12 and takes five minutes to compile.
unused="onnx onnxoptimizer paddle2onnx polygraphy"  # export to ONNX
unused="$unused blobfile lxml pycryptodomex"  # tokenizers of other models
unused="$unused paddlefsl fast-dataindex pybind11"  # few-shot learning, pretraining data
options=
for name in $unused; do
    options="$options --no-emit-package $name"
done

# shellcheck disable=SC2086  # options is a list
uv pip compile setup.py --extra cpu --extra demo --extra test --universal --python-version 3.10 --upgrade \
    --no-annotate --custom-compile-command "sh tools/update_lock.sh" $options --output-file requirements.lock
