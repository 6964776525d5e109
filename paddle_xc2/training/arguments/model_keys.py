"""Keys of the argument file about what is trained, and on what: the model, LoRA, the data."""

from __future__ import annotations

from dataclasses import dataclass

from paddle_xc2.training.arguments.key import MAY_CHANGE, MUST_MATCH, RESULT_MUST_MATCH, key


@dataclass
class ModelArguments:
    """Model"""

    model_name_or_path: str = key(
        "internlm/internlm-xcomposer2-7b",
        "checkpoint to start from: a directory, or a released name.",
        also=("from_pretrained",),
        resume=RESULT_MUST_MATCH,
    )
    new_tokens: list[str] | None = key(
        None,
        'texts that become one token each, as in ["<defect>"], and are saved with the tokenizer. They take the place '
        "of unused pieces of the vocabulary, and begin as the mean of the tokens that they replace; a text that is "
        "one token already stays it.",
        resume=MUST_MATCH,
    )
    img_size: int | None = key(
        None,
        "pixels, side of the square image; null is the checkpoint's, another size resizes its position table.",
        least=1,
        most=4096,
        resume=MUST_MATCH,
    )
    hd_num: int | None = key(
        None,
        "tiles that an image may take; null is upstream's number, -1 is for families without tiles.",
        least=-1,
        most=1000,
        resume=MUST_MATCH,
    )
    pad_image_to_square: bool | None = key(
        None,
        "of LLaVA: false takes the middle of an image as CLIP does, true pads it to a square; null is what the "
        "checkpoint was trained with, else padding. It is recorded, and chat then does the same.",
        resume=MUST_MATCH,
    )
    fix_vit: bool | None = key(
        None,
        "keep the vision encoder as it is; it then runs without a graph. null is true with lora, else false.",
        resume=MUST_MATCH,
    )
    fix_sampler: bool | None = key(
        None,
        "keep the projector (vision_proj) as it is. null is true with lora, else false.",
        resume=MUST_MATCH,
    )
    freeze_include: list[str] | None = key(
        None, 'patterns of parameter names to freeze, as in ["vit.*"].', resume=MUST_MATCH
    )
    freeze_exclude: list[str] | None = key(
        None,
        "patterns of names that learn in spite of fix_vit and fix_sampler; what both lists match stays as those say.",
        resume=MUST_MATCH,
    )


@dataclass
class LoRAArguments:
    """LoRA (defaults of upstream's script)"""

    lora: bool = key(
        False,
        "train low-rank updates of linear layers instead of the language model; what is saved is an adapter.",
        also=("use_lora",),
        resume=RESULT_MUST_MATCH,
    )
    lora_rank: int = key(64, "rank of the updates.", least=1, most=4096, also=("lora_r",), resume=MUST_MATCH)
    lora_alpha: float = key(64.0, "the updates are scaled by alpha / rank.", above=0, most=1e6, resume=MUST_MATCH)
    lora_dropout: float = key(
        0.05,
        "probability, on what enters the updates; not on DoRA's of the output head, which the loss takes as one with "
        "its weight.",
        least=0,
        below=1,
        resume=MUST_MATCH,
    )
    lora_target_modules: list[str] | None = key(
        None,
        "layers to update: language_model (attention.wqkv, attention.wo, feed_forward.w1, w2 and w3 of every decoder "
        "layer, of Qwen-VL's c_attn, attn.c_proj, w1 and w2; null is that too), vit, projector, output; or names, ends "
        "of names, regular expressions.",
        lora_only=True,
        resume=MUST_MATCH,
    )
    rslora: bool = key(
        False, "scale by alpha / sqrt(rank) instead.", also=("use_rslora",), lora_only=True, resume=MUST_MATCH
    )
    use_dora: bool = key(False, "learn the norm of each output's weights too.", lora_only=True, resume=MUST_MATCH)
    lora_plus_scale: float = key(
        1.0,
        "the second matrix of an update learns this many times as fast (LoRA+).",
        least=0,
        most=1e4,
        lora_only=True,
        resume=MUST_MATCH,
    )
    vit_lora_rank: int | None = key(
        None,
        "rank of the updates of the vision encoder; null is lora_rank.",
        least=1,
        most=4096,
        lora_only=True,
        resume=MUST_MATCH,
    )
    vit_lora_alpha: float | None = key(
        None, "the same for lora_alpha.", above=0, most=1e6, lora_only=True, resume=MUST_MATCH
    )
    quantization: str | None = key(
        None,
        "nf4 keeps the decoder's linear layers in four bits while LoRA learns (QLoRA); each is quantized as it is "
        "read from the checkpoint.",
        choices=("nf4",),
        also=("weight_quantize_algo",),
        resume=MUST_MATCH,
    )
    lora_path: str | None = key(
        None,
        "adapter to go on training, in PEFT's or PaddleNLP's layout; it decides ranks and layers.",
        lora_only=True,
        resume=MUST_MATCH,
    )
    train_plora: bool = key(
        False,
        "train PLoRA's matrices whole beside LoRA. Like the vision encoder and the projector, where fix_vit and "
        "fix_sampler are false, they are saved with the adapter.",
        resume=MUST_MATCH,
    )
    train_separators: bool = key(False, "likewise the separators between the tiles of an image.", resume=MUST_MATCH)
    train_tokens: list[str] | None = key(
        None,
        "tokens whose rows of the embedding and of the output head learn whole; only these rows are saved. null is "
        "what the training data needs: new_tokens, and the tokens in it that the model never learned, as far as its "
        "tables show. [] is new_tokens alone.",
        lora_only=True,
        resume=MUST_MATCH,
    )
    train_embeddings: bool = key(False, "train both tables whole instead.", resume=MUST_MATCH)


@dataclass
class DataArguments:
    """Data"""

    dataset: dict | None = key(
        None,
        '{"train": [{"name", "data_files", "image_folder", "num_samples", "ratio", "columns"}], "eval": [...]}; '
        "data_files (one or a list) are looked for from the current folder, then from the argument file's. "
        "num_samples, or ratio times its records, is how many samples an entry of train gives to an epoch, each record "
        "once before any comes again; without them, all its records once.",
        resume=RESULT_MUST_MATCH,
    )
    data_path: str | None = key(
        None,
        "upstream's short form of dataset: a JSON file to train on, or a data.txt with a file and its number of "
        "samples on each line.",
        resume=RESULT_MUST_MATCH,
    )
    given_num: bool = key(
        False,
        "the numbers in a data.txt are thousands of samples; false: they are ratios of the file's records.",
        resume=RESULT_MUST_MATCH,
    )
    mixture: str | None = key(
        None,
        'null takes exactly what is asked of each file; "official" draws as upstream\'s code does, with replacement '
        "and in turn from files with images and files without, whatever is asked of them.",
        resume=MUST_MATCH,
    )
    image_folder: str | None = key(
        None,
        "where relative image paths start, if an entry of dataset does not say; null is the data file's folder. Given "
        "on the command line, it holds for all entries.",
        resume=RESULT_MUST_MATCH,
    )
    exif: bool | None = key(
        None,
        "turn pictures as their EXIF orientation says, which upstream ignores; null is what the checkpoint was trained "
        "with, else false. It is recorded, and chat then does the same.",
        resume=MUST_MATCH,
    )
    background: str | None = key(
        None,
        "colour behind what is transparent in a picture, such as white or #f0f0f0; null is what the checkpoint was "
        "trained with, else transparency is dropped, as upstream does. It is recorded, and chat then does the same.",
        resume=MUST_MATCH,
    )
    columns: str | dict | None = key(
        None,
        "of CSV and TSV files, which column holds what, if an entry of dataset does not say: "
        '"image=photo,question=q,answer=a", or the same as an object; null sees it from the names in the first row. '
        "Given on the command line, it holds for all entries.",
        resume=RESULT_MUST_MATCH,
    )
    max_length: int | None = key(
        None,
        "longest sample; null is what the checkpoint was fine-tuned with here, else the family's.",
        least=1,
        most=2**20,
        resume=RESULT_MUST_MATCH,
    )
    truncation: str = key(
        "refuse",
        "what happens to longer samples: refuse lists them and stops, turns drops their oldest turns (but not "
        "the images, which go before the oldest question left), leave_out trains without them.",
        choices=("refuse", "turns", "leave_out"),
        resume=RESULT_MUST_MATCH,
    )
    bad_records: str = key(
        "refuse",
        "what happens to records that can't be used: refuse lists them and stops, leave_out trains without them, and "
        "the plan counts them; every image is then read whole before the run.",
        choices=("refuse", "leave_out"),
        resume=RESULT_MUST_MATCH,
    )
    dataloader_num_workers: int = key(
        0,
        "processes that read and transform images; 0 does it between the steps.",
        least=0,
        most=256,
        resume=MAY_CHANGE,
    )
    dataloader_drop_last: bool = key(
        False, "leave out the samples of an epoch that don't fill a step.", resume=MUST_MATCH
    )
