"""A server of a tiny model, and adapters on it, on a port of its own, for real clients."""

import base64
import contextlib
import io
import socket
import threading
import time

import numpy as np
import openai
import paddle
import pytest
from PIL import Image

from paddle_xc2.generation.engine import Engine
from paddle_xc2.generation.sampling import SamplingSettings
from paddle_xc2.generation.served_model import ServedModel
from paddle_xc2.models.lora import LoRALinear, replace_layer
from paddle_xc2.serving.app import build_app
from paddle_xc2.serving.limits import Limits
from paddle_xc2.serving.serve import server_for
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer

SIZES = {"vocab_size": TINY_VOCAB_SIZE, "max_position_embeddings": 2048}
LIMITS = Limits(
    max_body_bytes=2 * 2**20,
    max_image_bytes=2**20,
    max_image_pixels=1_000_000,
    max_images=4,
    max_choices=3,
    max_new_tokens=8,
    body_seconds=2.0,
)


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return ServedModel.of(tiny_model(**SIZES), tokenizer, "tiny")


class Running:
    """A server in a thread. `client`: OpenAI's, with the right key."""

    def __init__(self, engine, server, port, key):
        self.engine, self.server, self.port = engine, server, port
        self.url = f"http://127.0.0.1:{port}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or "none", max_retries=0, timeout=60)


@contextlib.contextmanager
def running(models, limits=LIMITS, key=None, fetch=False, patience=10.0, page=None, **engine_options):
    """Yields a Running server, which is shut down afterwards."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with Engine(models[0].model, **engine_options) as engine:
        app = build_app(engine, models, SamplingSettings(), limits, key, True, fetch, page)
        server = server_for(app, "127.0.0.1", port, patience)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Running(engine, server, port, key)
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def server(served):
    with running([served]) as server:
        yield server


def picture(seed=0, size=30):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, [size, size, 3], np.uint8))


def data_url(image):
    written = io.BytesIO()
    image.save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def asking(text, *images):
    """Messages with images in front of a question."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def adapter_of(model, directory):
    """Puts LoRA with random updates on a model, and writes it."""
    paddle.seed(3)
    for index in range(2):
        path = f"model.layers.{index}.attention.wqkv.linear"
        layer = LoRALinear(model.model.layers[index].attention.wqkv.linear, 4, 1.0)
        layer.lora_b.set_value(paddle.randn(layer.lora_b.shape))
        replace_layer(model, path, layer)
    model.eval()
    model.save_adapter(directory)
    return directory
