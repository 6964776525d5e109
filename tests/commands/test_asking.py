"""What the commands that ask a model have in common."""

from argparse import ArgumentParser
from dataclasses import fields, replace

import pytest

from paddle_xc2.commands.asking import add_sampling_arguments, sampling_of
from paddle_xc2.generation.sampling_settings import CHAT_SAMPLING, SamplingSettings


@pytest.fixture
def parser():
    parser = ArgumentParser()
    add_sampling_arguments(parser)
    return parser


def test_the_defaults_are_those_of_chat(parser):
    assert sampling_of(parser.parse_args([])) == CHAT_SAMPLING
    assert sampling_of(parser.parse_args(["--greedy"])) == replace(CHAT_SAMPLING, do_sample=False)


def test_every_setting_has_an_option(parser):
    given = {field.name: 1 for field in fields(SamplingSettings) if field.name != "do_sample"}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    assert sampling_of(parser.parse_args(words)) == SamplingSettings(do_sample=True, **given)


def test_a_value_out_of_range(parser):
    with pytest.raises(ValueError, match="top_p is 1.5, but must be above 0"):
        sampling_of(parser.parse_args(["--top_p", "1.5"]))
