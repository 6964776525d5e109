"""OpenAI's own client, answered as by OpenAI's own server."""

import threading
import time
from dataclasses import replace

import openai
import pytest
import requests

from paddle_xc2 import load_model, load_processor
from paddle_xc2.generation.served_model import ServedModel
from paddle_xc2.weights.switched_adapters import SwitchedAdapters
from tests.serving.conftest import LIMITS, SIZES, adapter_of, asking, data_url, picture, running
from tests.tiny import tiny_model, tiny_qwen_checkpoint


def by_chat(served, text, images=None, history=(), max_new_tokens=8):
    """The answer that `chat` gives."""
    answer, _ = served.model.chat(
        served.tokenizer,
        text,
        images,
        history,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        repetition_penalty=1.0,
    )
    return answer


def test_plain(server, served):
    messages = [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "And that?"},
    ]
    done = server.client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=6)
    (choice,) = done.choices
    want = by_chat(served, "And that?", history=[("What is it?", "A cat.")], max_new_tokens=6)
    assert choice.message.content == want and choice.message.role == "assistant"
    assert choice.finish_reason == "length" and choice.logprobs is None
    assert (done.object, done.model) == ("chat.completion", "tiny") and done.id.startswith("chatcmpl-")
    assert done.usage.completion_tokens == 6
    assert done.usage.total_tokens == done.usage.prompt_tokens + 6


def test_a_system_turn(server, served):
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    done = server.client.chat.completions.create(model="tiny", messages=messages)
    want, _ = served.model.chat(
        served.tokenizer,
        "What?",
        meta_instruction="Be brief.",
        do_sample=False,
        max_new_tokens=8,
        repetition_penalty=1.0,
    )
    assert done.choices[0].message.content == want


@pytest.mark.parametrize("usage", [False, True])
def test_streamed(server, served, usage):
    options = {"stream_options": {"include_usage": True}} if usage else {}
    stream = server.client.chat.completions.create(model="tiny", messages=asking("What is it?"), stream=True, **options)
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    last = chunks.pop() if usage else None
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == by_chat(served, "What is it?")
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].object == "chat.completion.chunk"
    if usage:
        assert last.choices == [] and last.usage.completion_tokens == 8


@pytest.mark.parametrize("number", [1, 2])
def test_images_by_base64(server, served, number):
    pictures = [picture(seed) for seed in range(number)]
    messages = asking("What is larger?", *map(data_url, pictures))
    done = server.client.chat.completions.create(model="tiny", messages=messages)
    text = "What is larger?" if number == 1 else "<ImageHere><ImageHere>What is larger?"
    assert done.choices[0].message.content == by_chat(served, text, pictures)


def test_log_probabilities(server):
    done = server.client.chat.completions.create(
        model="tiny", messages=asking("What?"), logprobs=True, top_logprobs=3, max_tokens=5
    )
    content = done.choices[0].logprobs.content
    assert len(content) == 5 and all(len(token.top_logprobs) == 3 for token in content)
    for token in content:
        assert token.logprob <= 0 and token.top_logprobs[0].logprob == pytest.approx(token.logprob)
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token or len(token.bytes) == 1


def test_another_family(tmp_path):
    """Qwen-VL: another tokenizer, another layout, rows of the model that no text has."""
    directory = tiny_qwen_checkpoint(tmp_path / "model", seq_length=2048)
    model, tokenizer = load_model(directory), load_processor(directory).tokenizer
    served = ServedModel.of(model, tokenizer, "qwen")
    with running([served]) as server:
        messages = asking("What is it?", data_url(picture()))
        done = server.client.chat.completions.create(model="qwen", messages=messages, logprobs=True, top_logprobs=20)
    assert done.choices[0].message.content == by_chat(served, "What is it?", picture())
    assert len(done.choices[0].logprobs.content) == done.usage.completion_tokens


def test_choices_seeds_and_stop_texts(server, served):
    def sampled(seed):
        done = server.client.chat.completions.create(
            model="tiny", messages=asking("What?"), n=3, seed=seed, temperature=2.0, top_p=0.9
        )
        assert [choice.index for choice in done.choices] == [0, 1, 2]
        return [choice.message.content for choice in done.choices]

    assert sampled(1) == sampled(1) != sampled(7)
    whole = by_chat(served, "What?")
    done = server.client.chat.completions.create(model="tiny", messages=asking("What?"), stop=["never", whole[3:6]])
    assert done.choices[0].message.content == whole[: whole.index(whole[3:6])]
    assert done.choices[0].finish_reason == "stop"


def test_temperature_zero_is_greedy_and_our_own_settings_are_taken(served):
    with running([served]) as server:
        done = server.client.chat.completions.create(
            model="tiny",
            messages=asking("What?"),
            temperature=0,
            extra_body={"top_k": 5, "repetition_penalty": 1.0},
        )
    assert done.choices[0].message.content == by_chat(served, "What?")


def test_models(server):
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    assert server.client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError, match='there is no model "cats"; there are: tiny'):
        server.client.models.retrieve("cats")


def test_errors_have_openais_form(server):
    def create(**values):
        return server.client.chat.completions.create(**{"model": "tiny", "messages": asking("What?")} | values)

    with pytest.raises(openai.NotFoundError) as error:
        create(model="gpt-4o")
    assert (error.value.code, error.value.param, error.value.type) == ("model_not_found", "model", "not_found_error")
    for values, param in (
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 9}, "n"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": asking("What?") * 3}, "messages.1.role"),
        ({"messages": [{"role": "system", "content": "Hi"}] * 2 + asking("What?")}, "messages.1.role"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"stop": list("abcde")}, "stop"),
        ({"stop": ["a", ""]}, "stop.1"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            create(**values)
        assert error.value.param == param, values
        assert error.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="the messages have .* but the model takes 2,048 in all") as error:
        create(messages=asking("What? " * 800))
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        create(max_tokens=2000)


def test_a_key(served):
    with running([served], key="secret") as server:
        server.client.models.list()
        with pytest.raises(openai.AuthenticationError) as error:
            server.client.with_options(api_key="wrong").models.list()
        assert error.value.code == "invalid_api_key"
        assert requests.get(f"{server.url}/health").status_code == 200
        assert requests.get(f"{server.url}/metrics").status_code == 401


def test_an_adapter_is_a_model(served, tmp_path):
    """Base and adapters are asked at once, each row by its own."""
    adapted = tiny_model(**SIZES)
    directory = adapter_of(adapted, tmp_path / "adapter")
    model = tiny_model(**SIZES)
    switch = SwitchedAdapters(model)
    switch.load("cats", directory)
    base = ServedModel.of(model, served.tokenizer, "base", lambda: switch.use(None))
    cats = ServedModel("cats", model, base.processor, base.ends, lambda: switch.use("cats"))
    asked = {"base": base, "cats": ServedModel.of(adapted, served.tokenizer)}
    want = {name: by_chat(one, "What is it?", picture()) for name, one in asked.items()}
    assert want["base"] != want["cats"]
    with running([base, cats]) as server:
        assert [model.id for model in server.client.models.list()] == ["base", "cats"]
        got = []

        def ask(name):
            messages = asking("What is it?", data_url(picture()))
            done = server.client.chat.completions.create(model=name, messages=messages)
            got.append((name, done.choices[0].message.content))

        threads = [threading.Thread(target=ask, args=(name,)) for name in ["base", "cats"] * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == sorted(list(want.items()) * 4)


def test_the_queue_is_full(served):
    with running([served], max_rows=1, max_waiting=1) as server:
        long = {"model": "tiny", "messages": asking("What?"), "max_tokens": 400, "stream": True}
        streams = [server.client.chat.completions.create(**long)]
        next(iter(streams[0]))
        streams.append(server.client.chat.completions.create(**long))
        while server.engine.load.num_waiting < 1:
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError) as error:
            server.client.chat.completions.create(model="tiny", messages=asking("What?"))
        assert int(error.value.response.headers["retry-after"]) >= 1 and error.value.code == "queue_full"
        for stream in streams:
            stream.close()
        while sum(server.engine.load):  # a client that leaves frees its place
            time.sleep(0.01)


def test_a_client_that_does_not_wait_frees_its_place(served):
    with running([served]) as server:
        body = {"model": "tiny", "messages": asking("What?"), "max_tokens": 1400}
        with pytest.raises(requests.Timeout):
            requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.05)
        while 'answers_total{finish="cancelled",model="tiny"} 1.0' not in requests.get(f"{server.url}/metrics").text:
            time.sleep(0.01)
        assert sum(server.engine.load) == 0


def test_a_deadline(served):
    with running([served], replace(LIMITS, answer_seconds=0.05)) as server:
        with pytest.raises(openai.APIStatusError) as error:
            server.client.chat.completions.create(model="tiny", messages=asking("What?"), max_tokens=450)
        assert error.value.status_code == 408 and "not done after 0.05 s" in error.value.message
        stream = server.client.chat.completions.create(
            model="tiny", messages=asking("What?"), max_tokens=450, stream=True
        )
        with pytest.raises(openai.APIError, match="not done after 0.05 s"):
            list(stream)


def test_health_and_metrics(server):
    server.client.chat.completions.create(model="tiny", messages=asking("What?"))
    while sum(server.engine.load):  # its place is freed a moment after its answer
        time.sleep(0.01)
    assert requests.get(f"{server.url}/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    text = requests.get(f"{server.url}/metrics").text
    for name in (
        "time_to_first_token_seconds_bucket",
        "generation_tokens_total",
        "waiting_requests",
        "responses_total",
    ):
        assert f"paddle_xc2_{name}" in text


def test_shutting_down_finishes_what_runs(served):
    with running([served]) as server:
        got = []
        body = {"model": "tiny", "messages": asking("What?"), "max_tokens": 300}
        thread = threading.Thread(target=lambda: got.append(server.client.chat.completions.create(**body)))
        thread.start()
        while not server.engine.load.num_running:
            time.sleep(0.001)
        server.server.should_exit = True
        thread.join()
        assert got[0].usage.completion_tokens > 0
        with pytest.raises(openai.APIConnectionError):
            server.client.models.list()
