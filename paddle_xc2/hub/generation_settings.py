"""generation_config.json beside a checkpoint: what in it would make upstream's model answer otherwise than ours.

Upstream's chat states most settings itself (length, sampling, beams, repetition penalty, end), and so does this
package's; what it leaves to this file and this package has no means for is refused by name.
"""

from __future__ import annotations

from paddle_xc2.hub.directory import ModelDirectory
from paddle_xc2.messages import short_repr

GENERATION_FILE = "generation_config.json"
# transformers' settings that choose other tokens, and the values (beside null) that change nothing.
_NEUTRAL: dict[str, tuple] = {
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "forced_decoder_ids": ([],),
    "sequence_bias": ({}, []),
    "exponential_decay_length_penalty": (),
    "typical_p": (1,),
    "min_p": (0,),
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "penalty_alpha": (0,),
    "guidance_scale": (1,),
    "diversity_penalty": (0,),
    "num_beam_groups": (1,),
    "length_penalty": (1,),
    "dola_layers": (),
    "watermarking_config": ({},),
}


def check_generation(directory: ModelDirectory) -> None:
    """Raises: ValueError naming what of a directory's generation_config.json is not carried out."""
    if not directory.has(GENERATION_FILE):
        return
    content = directory.json(GENERATION_FILE)
    wrong = [
        f"{name} is {short_repr(content[name])}"
        for name, neutral in _NEUTRAL.items()
        if content.get(name) is not None and content[name] not in neutral
    ]
    if wrong:
        raise ValueError(
            f"{directory / GENERATION_FILE}: {', '.join(wrong)}: not supported, and answers would be others than "
            "upstream's; remove it to generate without"
        )
