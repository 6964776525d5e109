"""Many requests at once give what each gives alone; places, times and errors."""

import threading
import time

import numpy as np
import paddle
import pytest
from PIL import Image

from paddle_xc2.generation import prefill, running_batch
from paddle_xc2.generation.engine import Engine, EngineClosed, EngineFull
from paddle_xc2.generation.request import CANCELLED, DEADLINE, LENGTH, STOP, Request
from paddle_xc2.generation.sampling_settings import SamplingSettings
from paddle_xc2.generation.served_model import ServedModel
from paddle_xc2.models import block_cache
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import TINY_VOCAB_SIZE, tiny_model, tiny_tokenizer

NEW = 12


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return ServedModel.of(tiny_model(vocab_size=TINY_VOCAB_SIZE), tokenizer)


@pytest.fixture
def engine(served, monkeypatch):
    """One with pieces and blocks so small that everything is cut."""
    monkeypatch.setattr(block_cache, "BLOCK", 8)
    monkeypatch.setattr(prefill, "PIECE", 24)
    with Engine(served.model) as engine:
        yield engine


def picture(seed, size=30):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, [size, size, 3], np.uint8))


def prompts(served, number=12):
    """Of many lengths: no image, one, two."""
    return [
        served.processor.encode_chat(
            "<ImageHere>" * (index % 3) + "What is in the picture? " * (index % 5 + 1),
            [picture(index * 10 + one) for one in range(index % 3)],
            meta_instruction="",
        )
        for index in range(number)
    ]


def alone(served, prompt, max_new_tokens=NEW, **settings):
    """The ids that `generate` gives."""
    pixels = [paddle.to_tensor(one) for one in prompt.pixel_values]
    mask = prompt.image_mask[None] if pixels else None
    ids, _ = served.model.generate(
        prompt.input_ids[None],
        image_mask=mask,
        pixel_values=pixels,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(served.ends),
        **settings,
    )
    return ids[0].tolist()


def ids_of(answer):
    return [token.id for token in answer.tokens]


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.3}])
def test_greedy_answers_are_those_given_alone(served, engine, settings):
    """With different lengths, some joining while others are decoded."""
    asked = prompts(served)
    want = [alone(served, prompt, NEW + index, **settings) for index, prompt in enumerate(asked)]
    answers = []
    for index, prompt in enumerate(asked):
        request = Request(served, prompt, SamplingSettings(**settings), max_new_tokens=NEW + index)
        answers.append(engine.submit(request))
        if index % 4 == 3:
            next(iter(answers[-1]))  # the next ones come when this one has a token
    for answer in answers:
        while answer.finish is None:
            time.sleep(0.001)
    assert [ids_of(answer) for answer in answers] == want


def test_pieces_add_up_to_the_text(served, engine):
    (prompt,) = prompts(served, 1)
    answer = engine.submit(Request(served, prompt, max_new_tokens=NEW))
    pieces = list(answer)
    assert "".join(piece.text for piece in pieces) == answer.text
    assert answer.text == served.tokenizer.decode(ids_of(answer), skip_special_tokens=True)
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert answer.finish == pieces[-1].finish and answer.finish in (STOP, LENGTH)


def test_a_seed_gives_the_same_answer_whatever_runs_beside_it(served, engine):
    asked = prompts(served, 6)
    settings = SamplingSettings(do_sample=True, temperature=3.0, top_p=0.9)

    def sampled(seed):
        return Request(served, asked[1], settings, max_new_tokens=NEW, seed=seed)

    want = ids_of(engine.submit(sampled(5)).wait())
    beside = [Request(served, prompt, settings, max_new_tokens=NEW) for prompt in asked]
    answers = [engine.submit(request) for request in (*beside, sampled(5), sampled(6))]
    got = [ids_of(answer.wait()) for answer in answers]
    assert got[-2] == want and got[-1] != want


def test_numbers_to_draw_by_have_the_precision_of_the_scores(served, engine, monkeypatch):
    """Paddle warns of a mixture on standard error, in the middle of an answer."""
    given, choose = [], running_batch.choose
    monkeypatch.setattr(running_batch, "choose", lambda *args: given.append((args[0], args[2])) or choose(*args))
    engine.submit(Request(served, prompts(served, 1)[0], SamplingSettings(do_sample=True), max_new_tokens=2)).wait()
    assert {(scores.dtype, draws.dtype) for scores, draws in given} == {(paddle.float32, paddle.float32)}


def test_different_settings_in_one_batch(served, engine):
    asked = prompts(served, 4)
    settings = [SamplingSettings(), SamplingSettings(do_sample=True, top_k=1), SamplingSettings(repetition_penalty=1.5)]
    answers = [engine.submit(Request(served, asked[3], one, max_new_tokens=NEW)) for one in settings]
    greedy, top_one, penalized = (ids_of(answer.wait()) for answer in answers)
    assert greedy == top_one == alone(served, asked[3])
    assert penalized == alone(served, asked[3], repetition_penalty=1.5)


def test_log_probabilities(served, engine):
    (prompt,) = prompts(served, 1)
    answer = engine.submit(Request(served, prompt, max_new_tokens=4, num_likeliest=3)).wait()
    whole = paddle.to_tensor(np.concatenate([prompt.input_ids, ids_of(answer)])[None])
    with paddle.no_grad():
        want = paddle.nn.functional.log_softmax(served.model(whole).logits[0], axis=-1).numpy()
    for place, token in enumerate(answer.tokens, start=len(prompt) - 1):
        assert token.log_probability == pytest.approx(want[place, token.id], abs=1e-4)
        assert [one for one, _ in token.likeliest] == np.argsort(-want[place])[:3].tolist()
        assert token.likeliest[0] == (token.id, pytest.approx(token.log_probability))


def test_a_stop_text_ends_the_answer_before_it(served, engine):
    prompt = prompts(served, 2)[1]
    whole = engine.submit(Request(served, prompt, max_new_tokens=40)).wait().text
    stop = whole[5:8]
    answer = engine.submit(Request(served, prompt, max_new_tokens=40, stop_texts=("never", stop))).wait()
    assert (answer.text, answer.finish) == (whole[: whole.index(stop)], STOP)


def test_cancelling_frees_the_place(served):
    with Engine(served.model, max_rows=1) as engine:
        long = engine.submit(Request(served, prompts(served, 1)[0], max_new_tokens=400))
        waiting = engine.submit(Request(served, prompts(served, 1)[0], max_new_tokens=2))
        gone = engine.submit(Request(served, prompts(served, 1)[0], max_new_tokens=2))
        gone.cancel()
        next(iter(long))
        assert waiting.finish is None
        long.cancel()
        assert waiting.wait().finish in (STOP, LENGTH)
        assert long.wait().finish == gone.wait().finish == CANCELLED and not gone.tokens
        assert len(long.tokens) < 400


def test_a_deadline_ends_an_answer_as_it_is(served, engine):
    start = time.monotonic()
    request = Request(served, prompts(served, 1)[0], max_new_tokens=400, deadline=0.05)
    answer = engine.submit(request).wait()
    assert answer.finish == DEADLINE and time.monotonic() - start < 10


def test_the_queue_is_bounded(served):
    with Engine(served.model, max_rows=1, max_waiting=2) as engine:
        request = Request(served, prompts(served, 1)[0], max_new_tokens=300)
        running = engine.submit(request)
        next(iter(running))
        waiting = [engine.submit(request) for _ in range(2)]
        with pytest.raises(EngineFull, match="2 requests wait already; try again later"):
            engine.submit(request)
        assert engine.load == (1, 2)
        for answer in (running, *waiting):
            answer.cancel()


def test_what_never_fits_is_refused_and_what_does_waits_for_memory(served):
    with Engine(served.model, max_positions=block_cache.BLOCK * 2) as engine:
        prompt = prompts(served, 1)[0]
        with pytest.raises(
            ValueError, match=r"the prompt has \d+ tokens and up to 500 may follow, but there is memory"
        ):
            engine.submit(Request(served, prompt, max_new_tokens=500))
        answers = [engine.submit(Request(served, prompt, max_new_tokens=NEW)) for _ in range(5)]
        assert len({tuple(ids_of(answer.wait())) for answer in answers}) == 1


def test_an_error_of_the_model_ends_the_request_that_it_meets(served, engine, monkeypatch):
    text, with_image = prompts(served, 2)
    running = engine.submit(Request(served, text, max_new_tokens=NEW))
    next(iter(running))
    monkeypatch.setattr(type(served.model), "image_tokens", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.submit(Request(served, with_image, max_new_tokens=NEW)).wait()
    assert ids_of(running if running.finish else running.wait()) == alone(served, text)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_fails_itself_leaves_nobody_waiting(served, monkeypatch):
    with Engine(served.model, max_rows=1) as engine:
        running = engine.submit(Request(served, prompts(served, 1)[0], max_new_tokens=400))
        next(iter(running))
        monkeypatch.setattr(engine, "_admit", lambda: 1 / 0)
        waiting = engine.submit(Request(served, prompts(served, 1)[0], max_new_tokens=2))
        for answer in (running, waiting):
            with pytest.raises(ZeroDivisionError):
                answer.wait()
        assert engine.load == (0, 0) and not engine.is_alive
        with pytest.raises(EngineClosed, match="no more requests are taken"):
            engine.submit(waiting.request)


def test_rotary_angles_that_depend_on_the_length(served, monkeypatch):
    """Past max_position_embeddings, dynamic scaling gives each row angles of its own."""
    scaling = {"type": "dynamic", "factor": 2.0}
    model = tiny_model(vocab_size=TINY_VOCAB_SIZE, rope_scaling=scaling, max_position_embeddings=28)
    served = ServedModel.of(model, served.tokenizer)
    asked = prompts(served, 10)
    assert {len(prompt) > 28 for prompt in asked} == {True, False}
    monkeypatch.setattr(prefill, "PIECE", 24)
    want = [alone(served, prompt, 30) for prompt in asked]
    with Engine(model) as engine:
        answers = [engine.submit(Request(served, prompt, max_new_tokens=30)) for prompt in asked]
        assert [ids_of(answer.wait()) for answer in answers] == want


def test_numbers_that_are_not_finite_end_with_what_is_wrong(served):
    model = tiny_model(vocab_size=TINY_VOCAB_SIZE)
    weight = model.model.layers[1].attention.wo.linear.weight
    weight.set_value(paddle.full_like(weight, float("nan")))
    broken = ServedModel.of(model, served.tokenizer)
    with Engine(model) as engine:
        answer = engine.submit(Request(broken, prompts(served, 2)[1], max_new_tokens=NEW))
        with pytest.raises(ValueError, match="there is no answer from token 1 on: the model computes NaN"):
            answer.wait()


def test_pictures_are_encoded_once(served, engine, monkeypatch):
    calls, encode = [], type(served.model).image_tokens
    monkeypatch.setattr(type(served.model), "image_tokens", lambda self, x: calls.append(len(x)) or encode(self, x))
    for _ in range(3):
        engine.submit(Request(served, prompts(served, 3)[2], max_new_tokens=2)).wait()
    assert calls == [2]


def test_why_an_answer_is_empty(served, engine):
    prompt = prompts(served, 1)[0]
    first = alone(served, prompt, 1)[0]
    ended = ServedModel(served.name, served.model, served.processor, (first,))
    answer = engine.submit(Request(ended, prompt, max_new_tokens=NEW)).wait()
    assert answer.why_empty() == "the model ended it at once"
    assert engine.submit(Request(served, prompt, max_new_tokens=NEW)).wait().why_empty() is None


def test_closing_waits_as_long_as_it_is_told_to(served):
    engine = Engine(served.model)
    short = engine.submit(Request(served, prompts(served, 1)[0], max_new_tokens=NEW))
    engine.close(patience=60)
    assert short.finish in (STOP, LENGTH)
    with pytest.raises(EngineClosed, match="no more requests are taken"):
        engine.submit(short.request)
    engine = Engine(served.model)
    long = engine.submit(Request(served, prompts(served, 1)[0], max_new_tokens=400))
    engine.close()
    assert long.finish == CANCELLED
    assert not [thread for thread in threading.enumerate() if thread.name == "engine"]


def test_requests_out_of_range(served):
    prompt = prompts(served, 1)[0]
    for values, message in (
        ({"max_new_tokens": 0}, "max_new_tokens is 0, but must be at least 1"),
        ({"seed": -1}, "seed is -1, but must be 0 or more"),
        ({"stop_texts": ("a", "")}, "a stop text is empty"),
        ({"num_likeliest": 21}, "num_likeliest is 21, but must be from 0 to 20"),
    ):
        with pytest.raises(ValueError, match=message):
            Request(served, prompt, **values)
