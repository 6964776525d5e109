"""How paddle_xc2 is built and what it needs. requirements.lock holds the exact versions that are tested."""

from pathlib import Path

from setuptools import find_packages, setup

REQUIRES = [
    # Model base class, Trainer, checkpoints. The only release with the Trainer fields that argument files use.
    "paddlenlp==3.0.0b4",
    # PaddleNLP 3.0.0b4 imports aistudio_sdk.hub.download, which later ones lack (PaddleNLP#10781).
    "aistudio-sdk==0.2.6",
    # PaddleNLP imports datasets; datasets 5 needs a newer huggingface_hub than PaddleNLP's tokenizers allow.
    "datasets>=2.14,<4",
    # datasets imports pyarrow; its later releases refuse NumPy 1.
    "pyarrow>=12,<21",
    # PaddleNLP 3.0.0b4 asks for at most 1.26.4.
    "numpy>=1.24,<2",
    # PaddleNLP and Paddle ask for 3.20.2. With 7, VisualDL refuses the Trainer's settings: training with it stops.
    "protobuf>=3.20.2,<7",
    # Released models by name; 1.0 is for tokenizers and datasets newer than those that PaddleNLP takes.
    "huggingface_hub>=0.23,<1",
    # Images; 9.5 has the limits on decompression that image reading relies on.
    "pillow>=9.5,<14",
    # The tokenizer; 0.2.2 refuses InternLM2's tokenizer.model, one of whose pieces holds a NUL.
    "sentencepiece>=0.2.3,<0.3",
    # Qwen-VL's tokenizer; 0.7 is the first for Python 3.12.
    "tiktoken>=0.7,<1",
    # Checkpoints; 0.6 reads bfloat16 into Paddle, and Paddle 3.3 asks for it.
    "safetensors>=0.6,<1",
    # bfloat16 in NumPy; PaddleNLP brings it along.
    "ml_dtypes>=0.4,<1",
    # Hashes of converted tensors and of data, as fast as memory; datasets brings it along.
    "xxhash>=3,<5",
    # Images and data given by address.
    "requests>=2.28,<3",
    # How much memory is free; VisualDL brings it along.
    "psutil>=5.9,<8",
    # Version ranges, for doctor; PaddleNLP and matplotlib bring it along.
    "packaging>=22",
    # Progress bars.
    "tqdm>=4.65,<5",
    # The report of check-data, its texts escaped; PaddleNLP brings it along.
    "jinja2>=3.1,<4",
    # loss.png.
    "matplotlib>=3.7,<4",
    # report_to visualdl; PaddleNLP brings it along.
    "visualdl>=2.5,<3",
    # Paddle imports it; Python 3.12 no longer brings it along. 64 can install a checkout in place.
    "setuptools>=64",
]

EXTRAS = {
    # One of cpu and gpu: both provide the module `paddle`, and overwrite each other's files. 3.0 to 3.3 pass the tests.
    "cpu": ["paddlepaddle>=3.0,<3.4"],
    # From Paddle's own package index, for the CUDA version at hand; the public index ends at 2.6.2.
    "gpu": ["paddlepaddle-gpu>=3.0,<3.4"],
    # Frames of video files; brings FFmpeg's libraries along. 17 tells what a file's index lists; the tests run with it.
    "video": ["av>=17,<18"],
    # The scans of handwritten digits that the demo trains on.
    "demo": ["scikit-learn>=1.3,<2"],
    # report_to tensorboard.
    "tensorboard": ["tensorboardX>=2.6,<3"],
    # paddle-xc2 serve, and web, whose page is our own. PaddleNLP brings all but the last along.
    "serve": [
        "fastapi>=0.110,<1",
        "starlette>=0.37,<2",
        "pydantic>=2.7,<3",
        "uvicorn>=0.30,<1",
        "h11>=0.14,<1",
        "prometheus_client>=0.20,<1",
    ],
    "web": ["paddle_xc2[serve]"],
    # tests/run.sh. A ruff release may format differently, and a mypy release find other faults, so only their patches.
    "test": [
        "av>=17,<18",
        "pytest>=8,<10",
        "pytest-timeout>=2.2,<3",
        "hypothesis>=6.100,<7",
        "fastapi>=0.110,<1",
        "starlette>=0.37,<2",
        "pydantic>=2.7,<3",
        "uvicorn>=0.30,<1",
        "h11>=0.14,<1",
        "prometheus_client>=0.20,<1",
        "openai>=2,<3",
        # Where a browser is, it opens the page.
        "selenium>=4.20,<5",
        "mypy>=2.4,<2.5",
        "ruff>=0.17,<0.18",
        "scikit-learn>=1.3,<2",
    ],
}


def version() -> str:
    """The `__version__` of the package, read without importing it."""
    for line in Path(__file__).with_name("paddle_xc2").joinpath("__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__ = "):
            return line.split('"')[1]
    raise ValueError("paddle_xc2/__init__.py: there is no line that begins with __version__ = ")


setup(
    name="paddle_xc2",
    version=version(),
    description="InternLM-XComposer2 on PaddlePaddle: convert, fine-tune, chat",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",  # what Paddle 3.3 and PaddleNLP 3.0.0b4 both run on
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    # config/ stands at the top of the checkout, where users look for it, and inside the package where it is installed.
    packages=[*find_packages(include=["paddle_xc2", "paddle_xc2.*"]), "paddle_xc2.config"],
    package_dir={"paddle_xc2.config": "config"},
    package_data={
        "paddle_xc2.config": ["*.json"],
        "paddle_xc2.data.checking": ["report_page.html"],
        "paddle_xc2.serving": ["page/*"],
    },
    entry_points={"console_scripts": ["paddle-xc2 = paddle_xc2.cli:main"]},
)
