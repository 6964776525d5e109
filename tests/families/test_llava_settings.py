"""What the folders of XTuner's LLaVA say."""

import pytest

from paddle_xc2.families.llava_settings import CLIP_MEAN, CLIP_STD, check_pixels, check_projector, clip_settings

RELEASED = {  # of openai/clip-vit-large-patch14-336
    "crop_size": 336,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 336,
}


def test_what_is_not_there_is_clips_default():
    base = clip_settings({"hidden_size": 64, "image_size": None, "patch_size": None}, "config.json")
    assert (base["hidden_size"], base["num_hidden_layers"], base["patch_size"], base["image_size"]) == (64, 12, 32, 224)


def test_a_whole_clip_holds_its_vision_encoder():
    whole = {
        "model_type": "clip",
        "hidden_size": 1,
        "vision_config": {"hidden_size": 64, "image_size": 336, "dropout": 0},
    }
    assert clip_settings(whole, "x")["hidden_size"] == 64 and clip_settings(whole, "x")["image_size"] == 336


@pytest.mark.parametrize(
    ("check", "changes", "message"),
    [
        (
            clip_settings,
            {"image_size": [336, 336], "layer_norm_eps": "x"},
            "image_size is [336, 336], but must be a whole number above 0; layer_norm_eps is 'x', but must be a number",
        ),
        (clip_settings, {"model_type": "siglip_vision_model"}, "only 'clip_vision_model' or 'clip' is supported"),
        (
            clip_settings,
            {"num_channels": 1, "attention_dropout": 0.1},
            "num_channels is 1, only 3 is supported; attention_",
        ),
        (check_projector, {"hidden_act": "relu"}, "hidden_act is 'relu', only 'gelu' is supported"),
        (check_projector, {"depth": 3, "bias": False}, "depth is 3, only 2 is supported; bias is False, only True is"),
    ],
)
def test_another_encoder_or_projector_is_refused_by_name(check, changes, message):
    check({name: None for name in changes}, "x")
    with pytest.raises(ValueError) as caught:
        check(changes, "x/config.json")
    assert str(caught.value).startswith("x/config.json: ") and message in str(caught.value)


def test_clips_own_pixels():
    check_pixels(RELEASED, 336, "x")
    newer = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}, "rescale_factor": 1 / 255}
    check_pixels({**RELEASED, **newer, "image_processor_type": "CLIPImageProcessor", "do_pad": None}, 336, "x")
    check_pixels({"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD)}, 336, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean is [0.5, 0.5, 0.5], only [0.48145466, 0.4578275, 0.40821073] is"),
        ({"image_std": 3}, "image_std is 3, only [0.26862954"),
        ({"image_mean": ["x", None, {}]}, "image_mean is ['x', None, {}], only"),
        ({"size": 224}, "size is 224, only 336 is supported"),
        (
            {"size": {"shortest_edge": 336, "longest_edge": 448}},
            "size is {'longest_edge': 448, 'shortest_edge': 336}, only",
        ),
        ({"crop_size": {}}, "crop_size is {}, only 336"),
        ({"resample": 2}, "resample is 2, only 3 is supported"),
        ({"do_normalize": False}, "do_normalize is False, only True is supported"),
        ({"rescale_factor": 1}, "rescale_factor is 1, only 0.00392"),
        ({"image_processor_type": "SiglipImageProcessor"}, "image_processor_type is 'SiglipImageProcessor', only"),
    ],
)
def test_other_pixels_are_refused_by_name(changes, message):
    with pytest.raises(ValueError) as caught:
        check_pixels({**RELEASED, **changes}, 336, "preprocessor_config.json")
    assert str(caught.value).startswith(f"preprocessor_config.json: {message}")
